"""The real images that evaluate sets beside a synthetic set; the trainings themselves are done by `tests/remote`."""

import json
from contextlib import nullcontext

import pytest

from raydd.cli import run
from raydd.training.matrix import Outcome


@pytest.fixture
def scored(monkeypatch):
    """The matrices that would have been trained; every training comes to one half."""
    from raydd.remote import evaluate as remote
    from raydd.remote import session

    asked = []

    def pretend(matrix, num_workers, show, known, keep):
        asked.append(matrix)
        return {job: Outcome(0.5, 1.0) for job in matrix.jobs()}

    monkeypatch.setattr(remote, "run_matrix", pretend)
    monkeypatch.setattr(session, "_opened", lambda address, note: nullcontext())
    return asked


def names(capfd, *words):
    assert run(["evaluate", *map(str, words), "--seeds", "2", "--json"]) == 0
    return [score["name"] for score in json.loads(capfd.readouterr().out)["scores"]]


def test_a_buffer_changes_what_stands_beside_a_set(capfd, small_synset, small_buffer, scored):
    plain = names(capfd, small_synset)
    assert plain[1:5] == [
        "random, 1 a class",
        "kmeans, 1 a class",
        "herding (pixels), 1 a class",
        "kcenter (pixels), 1 a class",
    ]
    asked = names(capfd, small_synset, "--buffer", small_buffer)
    assert asked[:3] == plain[:3]
    assert asked[3:6] == ["herding (features), 1 a class", "kcenter (features), 1 a class", "forgetting, 1 a class"]
    assert asked[6:] == plain[5:]
    assert len(scored) == 2
    assert [len(entry.sets) for entry in scored[1].entries] == [1, 2, 2, 1, 1, 1, 0]


def test_a_folder_without_experts_is_refused_before_anything_is_trained(capfd, small_synset, tmp_path, scored):
    assert run(["evaluate", str(small_synset), "--buffer", str(tmp_path)]) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert "no manifest.json" in line
    assert scored == []
