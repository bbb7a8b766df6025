"""The first command of the README, as a newcomer runs it."""

import json
import sys

import pytest

from raydd.cli import run, verbs
from raydd.config.presets import load_preset
from raydd.data.synset import SyntheticSet


@pytest.mark.remote
def test_quickstart_goes_all_the_way(tmp_path, monkeypatch, capsys):
    """With a small network and few steps; at its own size it is the next test."""
    few = {"steps": 2, "student_steps": 2, "window": {"high": 1}, "experts": {"network": "MLP", "num_experts": 2}}
    small = load_preset("digits", "mtt", 1) | few | {"threads": 1}
    monkeypatch.setattr(verbs, "load_preset", lambda *names: small if names == ("digits", "mtt", 1) else None)
    out = tmp_path / "run"
    assert run(["quickstart", "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {score["kind"] for score in document["scores"]} == {
        "distilled",
        "random",
        "kmeans",
        "herding",
        "kcenter",
        "whole",
    }
    assert "--set" not in json.dumps(document["outputs"])
    assert {"buffer", "config.yaml", "scores.json", "report.html"} <= {path.name for path in out.iterdir()}


@pytest.mark.remote
@pytest.mark.slow
def test_quickstart_distills_digits_and_scores_them_honestly(apart):
    done, folder = apart(sys.executable, "-m", "raydd", "quickstart", "--out", "run", "--json", seconds=600)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    scores = {score["kind"]: score for score in document["scores"]}
    assert set(scores) == {"distilled", "random", "kmeans", "herding", "kcenter", "whole"}
    assert all(score["networks"] == 5 and score["selection"] == "honest" for score in scores.values())
    assert scores["distilled"]["mean"] >= 0.80
    assert scores["distilled"]["mean"] > scores["random"]["mean"] + 0.05
    assert scores["whole"]["mean"] > scores["distilled"]["mean"]
    for path in document["outputs"].values():
        assert (folder / path).exists()
    assert {"config.yaml", "metrics.jsonl", "synset.arrow", "synset.png", "report"} <= set(document["outputs"])
    assert len(SyntheticSet.load(folder / "run" / "synset.arrow").images) == 10
    assert not (folder / "runs").exists()
