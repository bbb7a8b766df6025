"""Without a held-out part, as the papers train: every verb takes all training images, or says why it cannot."""

import math
import re

import pytest
import yaml

from raydd.api.distill import distill
from raydd.buffer.arrow_buffer import ArrowBuffer, refresh_manifest
from raydd.cli import run
from raydd.config.parsing import build
from raydd.config.schema import DataConfig, DistillConfig, EvaluateConfig
from raydd.data.datasets import load_dataset
from raydd.evaluation.matrix import Scorer
from raydd.evaluation.scores import best_of_steps, plan, selection_of, summarise
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, prepare

EXPERTS = {"network": "ConvNetW4", "num_experts": 2, "epochs": 3}
ALL = 1438  # training images of digits, of which 145 are held out unless somebody says otherwise


@pytest.fixture(scope="module")
def buffer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("buffers") / "whole"
    config = DistillConfig(experts=EXPERTS).experts
    job, missing = prepare(ExpertJob(DataConfig(validation=0), config, 0, folder, "cpu"))
    trainer = ExpertTrainer(job)
    assert len(trainer._train) == ALL
    for index in missing:
        trainer.train(index)
    refresh_manifest(folder)
    return folder


def settings(*layers):
    base = {"ipc": 1, "steps": 2, "student_steps": 1, "span": 1, "threads": 1, "experts": EXPERTS}
    return build(DistillConfig, base, {"data": {"validation": 0}}, *layers)


def test_experts_see_all_training_images_and_no_accuracy_is_measured(buffer):
    found = ArrowBuffer(buffer)
    assert found.spec.recipe["validation"] == 0
    assert bool(found.accuracy.isnan().all())
    assert run(["buffer", "info", str(buffer), "--json"]) == 0
    assert run(["buffer", "verify", str(buffer)]) == 0


def test_a_set_is_that_of_the_last_step_and_its_evaluation_takes_all_images(buffer, tmp_path):
    synset = distill(settings(), tmp_path / "run", buffer=buffer)
    assert (synset.provenance["chosen"], synset.recipe["data"]["validation"]) == ("last outer step", 0)
    assert selection_of(synset) == "honest"
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["validation"] == 0
    config = EvaluateConfig(seeds=1, epochs=2, real_epochs=1, baselines=("random",))
    matrix, work = plan([synset], None, config, "cpu")
    assert len(work.dataset.train) == ALL
    scorer = Scorer(matrix)
    outcomes = {job: scorer.score(job) for job in matrix.jobs()}
    assert all(math.isfinite(record.mean) for record in best_of_steps(summarise(matrix, outcomes), {}))
    assert len(outcomes) == 3


def test_a_set_of_nine_tenths_is_evaluated_beside_all_images_where_that_is_asked(tmp_path):
    synset = distill(settings({"method": "random", "steps": 0, "data": {"validation": 0.1}}), tmp_path / "run")
    for validation, count in ((None, ALL - len(load_dataset("digits").validation)), (0.0, ALL)):
        config = EvaluateConfig(seeds=1, baselines=(), validation=validation)
        assert len(plan([synset], None, config, "cpu")[1].dataset.train) == count


@pytest.mark.parametrize("shipped", ["digits/mtt", "cifar10/mtt", "cifar10/tgdd"])
def test_a_preset_takes_the_papers_split(shipped, tmp_path, capfd):
    """As far as the settings: data sets that must be fetched are not here."""
    words = ["distill", "--preset", shipped, "--set", "data.validation=0", "--set", "evaluate_every=5"]
    words += ["--dataset", "digits", "--out", str(tmp_path / "run"), "--set", "data.preprocessing=normalise"]
    assert run(words) == 2
    line = r"evaluate_every = 5 needs a validation split, .*; use --set data.validation=0.1, or drop evaluate_every"
    assert re.search(line, capfd.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tune", "--space", "mtt_digits"], "data.validation = 0 leaves no images to compare trials with"),
        (["tune", "--space", "tgdd_digits"], "data.validation = 0 leaves no images to compare trials with"),
        (["distill", "--set", "keep_scored=true"], "keep_scored keeps scored sets, and none is scored"),
    ],
)
def test_what_needs_a_held_out_part_says_so_before_anything_is_written(words, line, buffer, tmp_path, capfd):
    place = ["--buffer", str(buffer)] if words[0] == "distill" else []
    place += ["--set", "experts.epochs=3", "--set", "window.high=1"] if words[0] == "distill" else []
    words = [*words, *place, "--network", "ConvNetW4", "--set", "data.validation=0"]
    assert run([*words, "--out", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_part_than_the_experts_is_refused_with_both(buffer, tmp_path):
    with pytest.raises(
        ValueError, match=r"held out data\.validation=0\.0 .*, not 0\.1; use --set data\.validation=0\.0"
    ):
        distill(settings({"data": {"validation": 0.1}}), tmp_path / "run", buffer=buffer)
