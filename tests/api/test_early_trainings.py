"""The trainings of an evaluation that need no synthetic set are those that the evaluation then asks for."""

import pytest

from raydd.api.distill import distill
from raydd.api.early_trainings import early_trainings
from raydd.api.evaluate import evaluate
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.evaluation.jobs import Outcome
from raydd.evaluation.matrix import same_training
from raydd.methods import complete

EVALUATION = EvaluateConfig(epochs=3, real_epochs=1, seeds=2)


@pytest.fixture
def config():
    small = {"steps": 1, "student_steps": 1, "window": {"high": 1}, "threads": 1, "experts": {"network": "MLP"}}
    return complete(DistillConfig.model_validate(small))


def test_they_are_the_same_trainings_as_those_beside_the_set(config, small_buffer, tmp_path, pretend):
    calls = pretend(lambda matrix, job: Outcome(0.5, 1.0))
    matrix, jobs = early_trainings(config, tmp_path / "run", small_buffer, EVALUATION)
    synset = distill(config, tmp_path / "run", buffer=small_buffer)
    evaluate([synset], EVALUATION)
    (call,) = calls
    assert {job for job in call.jobs if same_training(matrix, call.matrix, job)} == set(jobs)
    assert [call.matrix.rows[job.row].kind for job in call.jobs if job not in jobs] == ["distilled"] * 2
    assert early_trainings(config, tmp_path / "run", small_buffer, EVALUATION)[1] == [], "all are cached now"
