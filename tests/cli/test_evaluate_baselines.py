"""The real images that evaluate sets beside a synthetic set; the trainings themselves are done by `tests/remote`."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest

from raydd.cli import run
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Outcome
from raydd.numerics.formation import Formation


@pytest.fixture
def scored(monkeypatch):
    """The matrices that would have been trained; every training comes to one half."""
    from raydd.remote import session, train_matrix as remote

    asked = []

    def pretend(matrix, where, show, known, keep):
        asked.append(matrix)
        return {job: Outcome(0.5, 1.0) for job in matrix.jobs()}

    monkeypatch.setattr(remote, "train_matrix", pretend)
    monkeypatch.setattr(session, "_connected", lambda *_: nullcontext())
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
    assert asked[3:5] == ["herding (features), 1 a class", "kcenter (features), 1 a class"]
    assert asked[5:7] == ["forgetting, 1 a class", "glister, 1 a class"]
    assert asked[7:] == plain[5:]
    assert len(scored) == 2
    sizes = [len(entry.sets) for entry in scored[1].rows]
    assert sizes == [1, 2, 2, 1, 1, 1, 0], "of one image a class, k-center is herding, and trained once"


def test_a_folder_without_experts_is_refused_before_anything_is_trained(capfd, small_synset, tmp_path, scored):
    assert run(["evaluate", str(small_synset), "--buffer", str(tmp_path)]) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert "no manifest.json" in line
    assert scored == []


def test_a_set_of_mosaics_has_mosaics_of_real_images_beside_it(capfd, small_synset, scored, tmp_path):
    cut = tmp_path / "synset.arrow"
    plain = SyntheticSet.load(small_synset)
    replace(plain, formation=Formation(2)).save(cut)
    words = ["evaluate", str(cut), str(small_synset), "--seeds", "2", "--set", "real_epochs=0", "--json"]
    assert run(words) == 0
    found = json.loads(capfd.readouterr().out)
    kinds = {score["kind"]: (score["name"], score["ipc"]) for score in found["scores"] if not score.get("asked")}
    assert list(kinds) == ["random", "kmeans", "herding", "kcenter", "random-mosaic", "kmeans-mosaic"]
    assert kinds["random-mosaic"] == ("random mosaics (2 x 2), 1 a class", 1)
    (matrix,) = scored
    seen = {entry.kind: len(entry.sets[0].decoded().images) for entry in matrix.rows[2:]}
    assert (seen["random"], seen["random-mosaic"], seen["kmeans-mosaic"]) == (10, 40, 40)
    best = [(test["first"], test["second"]) for test in found["comparisons"] if test["best_baseline"]]
    assert [first for first, _ in best] == [score["name"] for score in found["scores"] if score.get("asked")]
    assert run([*words[:3], "--baselines", "herding", *words[3:]]) == 0
    left = [score["kind"] for score in json.loads(capfd.readouterr().out)["scores"]]
    assert left == ["distilled", "distilled", "herding"]
