"""Trainings that failed: every verb of the matrix shows what there is, names what is missing, and ends with 1."""

import json
from contextlib import nullcontext

import pytest

from raydd.cli import run
from raydd.evaluation.jobs import Failure, Outcome

REASON = "out of memory, also alone"


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """Trainings without Ray, of which some fail; the trainings that each call ran."""
    from raydd.remote import session, train_matrix as remote

    calls, lost = [], []

    def pretend(matrix, where, show, known, keep):
        found = dict(known)
        jobs = [job for job in matrix.jobs() if job not in known]
        for job in jobs:
            if any(fits(matrix, job) for fits in lost):
                found[job] = Failure(REASON)
            else:
                found[job] = Outcome(0.25 + job.seed / 100 + 0.1 * job.row / len(matrix.rows), 1.0)
                keep(job, found[job])
        calls.append(jobs)
        return found

    monkeypatch.setattr(remote, "train_matrix", pretend)
    monkeypatch.setattr(session, "_connected", lambda *_: nullcontext())
    monkeypatch.setattr("raydd.evaluation.result_cache.default_cache", lambda: tmp_path / "kept")
    monkeypatch.setenv("COLUMNS", "200")
    return lost, calls


def call(capfd, *words):
    """The exit code, the document, and what was printed for a person."""
    capfd.readouterr()
    code = run([*map(str, words), "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out), err


def test_evaluate_scores_what_there_is_and_trains_only_the_rest_again(capfd, small_synset, failing, tmp_path):
    lost, calls = failing
    lost.append(lambda matrix, job: job.network == "LeNet" or (job.network == "MLP" and job.seed == 1 and job.row == 0))
    words = ["evaluate", small_synset, "--nets", "MLP,LeNet", "--seeds", "3", "--baselines", "random"]
    words += ["--set", "real_epochs=0", "--out", tmp_path / "scores.json"]
    code, document, err = call(capfd, *words)
    assert code == 1
    first, second = document["scores"]
    assert (first["network"], first["networks"], first["seeds"]) == ("MLP", 2, [0, 2])
    assert (second["networks"], "seeds" in second) == (3, False)
    assert [(one["network"], one["seed"], one["reason"]) for one in document["missing"]] == [
        ("MLP", 1, REASON),
        *(("LeNet", seed, REASON) for _ in range(2) for seed in range(3)),
    ]
    assert [one.get("asked", False) for one in document["missing"]] == [True, *[True] * 3, *[False] * 3]
    assert f"missing: {first['name']}, on MLP, seed 1: {REASON}" in err
    assert "7 trainings failed; the same command trains only these" in err
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["missing"] == document["missing"]
    lost.clear()
    code, document, _ = call(capfd, *words)
    assert (code, document["missing"], len(document["scores"])) == (0, [], 4)
    assert [len(jobs) for jobs in calls] == [12, 7]


def test_a_given_set_without_any_score_keeps_its_place(capfd, small_synset, failing):
    lost, _ = failing
    lost.append(lambda matrix, job: job.row == 0)
    code, document, _ = call(capfd, "evaluate", small_synset, "--seeds", "2", "--baselines", "random")
    assert code == 1
    ((name, path),) = [(one["name"], one["path"]) for one in document["sets"]]
    assert (path, {one["name"] for one in document["missing"]}) == (str(small_synset), {name})
    assert all(score["name"] != name for score in document["scores"])


def test_robust_scores_lack_those_whose_trainings_failed(capfd, small_synset, failing):
    lost, _ = failing
    words = ["evaluate", small_synset, "--scores", "lrs,ars", "--seeds", "2", "--baselines", "none"]
    _, whole, _ = call(capfd, *words, "--fresh")
    lost.append(lambda matrix, job: not matrix.rows[job.row].sets)  # the whole data
    code, document, _ = call(capfd, *words, "--fresh")
    assert code == 1
    assert len(whole["robust"]) == 2
    assert document["robust"] == [score for score in whole["robust"] if "whole_hard" not in score["parts"]]


def test_every_training_failed_is_one_line(capfd, small_synset, failing):
    lost, _ = failing
    lost.append(lambda matrix, job: True)
    code, document, err = call(capfd, "evaluate", small_synset, "--seeds", "2", "--baselines", "none")
    assert (code, list(document)) == (1, ["error"])
    assert f"on MLP, seed 0: {REASON}; so did the other" in document["error"]["message"]
    assert err.count("raydd: ") == 1


def test_nas_ranks_the_architectures_that_have_all_their_trainings(capfd, small_synset, failing, tmp_path):
    lost, calls = failing
    lost.append(lambda matrix, job: job.network == matrix.networks[2] and job.row == 0)
    words = ["nas", small_synset, "--space", "convnet720", "--sample", "5", "--real-epochs", "1", "--out", tmp_path]
    code, document, err = call(capfd, *words)
    assert (code, document["architectures"], len(document["missing"])) == (1, 4, 1)
    gone = document["missing"][0]["network"]
    assert gone not in document["real"]
    assert all(len(proxy["scores"]) == 4 and gone not in proxy["scores"] for proxy in document["proxies"])
    assert REASON in err
    lost.clear()
    code, document, _ = call(capfd, *words)
    assert (code, document["architectures"], len(calls[1])) == (0, 5, 1)


def test_continual_lacks_the_runs_that_lack_a_training(capfd, small_synset, failing, tmp_path):
    lost, calls = failing
    lost.append(lambda matrix, job: job.seed == 1 and job.row == len(matrix.rows) - 1)
    words = ["continual", small_synset, "--steps", "2", "--seeds", "2", "--baselines", "none", "--out", tmp_path]
    code, document, err = call(capfd, *words)
    assert (code, len(document["missing"])) == (1, 1)
    assert [run["networks"] for run in document["runs"]] == [2, 1]
    assert json.loads((tmp_path / "continual.json").read_text())["missing"] == document["missing"]
    assert REASON in err
    lost.clear()
    assert call(capfd, *words)[0] == 0
    assert len(calls[1]) == 1
