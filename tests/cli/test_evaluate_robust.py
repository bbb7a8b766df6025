"""Robust scores, the paper's number, comparisons and other projects' files; trainings are done by `tests/remote`."""

import json
import zlib
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from raydd.cli import run
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Outcome
from raydd.evaluation.robust import TRAININGS, over_seeds
from raydd.interop.writing import write_synset
from raydd.numerics.rng import generator


@pytest.fixture
def scored(monkeypatch):
    """The matrices that would have been trained; accuracies come of the row's name, network and seed."""
    from raydd.remote import session, train_matrix as remote

    asked = []

    def pretend(matrix, where, show, known, keep):
        asked.append(matrix)
        return {job: Outcome(accuracy(matrix.rows[job.row].name, *job[1:]), 1.0) for job in matrix.jobs()}

    monkeypatch.setattr(remote, "train_matrix", pretend)
    monkeypatch.setattr(session, "_connected", lambda *_: nullcontext())
    monkeypatch.setenv("COLUMNS", "200")
    return asked


def accuracy(name, network, seed):
    return zlib.crc32(f"{name} {network} {seed}".encode()) / 2**32


@pytest.fixture(scope="module")
def soft(small_synset, tmp_path_factory):
    synset = SyntheticSet.load(small_synset)
    path = tmp_path_factory.mktemp("soft") / "synset.arrow"
    replace(synset, labels=torch.randn((10, 10), generator=generator(0))).save(path)
    return path


@pytest.fixture(scope="module")
def kept(small_buffer, tmp_path_factory):
    """A run of four steps, each of which is scored and kept."""
    out = tmp_path_factory.mktemp("kept") / "run"
    words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--out", str(out)]
    for setting in ("steps=4", "student_steps=1", "window.high=1", "threads=1", "evaluate_every=1", "keep_scored=true"):
        words += ["--set", setting]
    assert run([*words, "--set", "evaluate_networks=1", "--set", "evaluate_epochs=1"]) == 0
    return out


def written(tmp_path, *words):
    out = tmp_path / "scores.json"
    code = run(["evaluate", *map(str, words), "--seeds", "2", "--baselines", "random", "--out", str(out)])
    assert code == 0
    return json.loads(out.read_text())


def refused(capfd, *words):
    capfd.readouterr()
    assert run(["evaluate", *map(str, words)]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    return err


def one_seed(score, accuracies, weight=0.7):
    """A robust score of one seed, by its name."""
    return over_seeds(score, {TRAININGS[name]: {0: value} for name, value in accuracies.items()}, "logits", weight).mean


def test_robust_scores_are_those_of_the_trainings_in_the_document(capfd, soft, small_buffer, scored, tmp_path):
    found = written(tmp_path, soft, "--scores", "lrs,ars", "--buffer", small_buffer, "--set", "score_weight=0.7")
    assert set(found) == {
        "scores",
        "comparisons",
        "robust",
        "missing",
        "steps",
        "settings",
        "protocol",
        "sets",
        "commit",
        "sha256",
    }
    assert all(record["selection"] == "honest" for record in found["scores"])
    assert (found["settings"]["scores"], found["settings"]["seeds"]) == (["lrs", "ars"], 2)
    title = found["scores"][0]["name"]
    names = {part: f"{title}: {words}" for part, words in WORDS.items()} | {"distilled_own": title}
    trained = names | {"whole_hard": "whole data, 50 epochs"}  # which is the same training
    assert [row["score"] for row in found["robust"]] == ["lrs", "ars"]
    for row in found["robust"]:
        by_hand = [
            one_seed(row["score"], {part: accuracy(trained[part], "MLP", seed) for part in row["parts"]})
            for seed in (0, 1)
        ]
        assert row["values"] == pytest.approx(by_hand)
        assert (row["of"], row["weight"]) == (title, 0.7)
    out = capfd.readouterr().out
    assert "robust scores in %" in out
    assert all(name in out for name in names.values())


WORDS = {
    "distilled_hard": "hard labels",
    "random_own": "random images",
    "distilled_plain": "no augmentation",
    "random_plain": "random images, no augmentation",
    "whole_hard": "whole data",
}


def test_whole_data_are_trained_on_once(soft, small_synset, small_buffer, scored, tmp_path, monkeypatch):
    from raydd.evaluation import scores

    monkeypatch.setattr(scores, "check_compatible", lambda *rest, **named: None)
    found = written(tmp_path, soft, small_synset, "--scores", "lrs", "--buffer", small_buffer)
    (matrix,) = scored
    assert [entry.kind for entry in matrix.rows].count("whole") == 1
    whole = [record["values"] for record in found["scores"] if record["kind"] == "whole"]
    assert len(whole) == 3
    assert whole[0] == whole[1] == whole[2]
    assert len(found["robust"]) == 2


def test_soft_labels_without_a_teacher_are_refused(capfd, soft, scored):
    line = refused(capfd, soft, "--scores", "lrs")
    assert "give experts with --buffer" in line
    assert "unknown score 'lsr': did you mean lrs" in refused(capfd, soft, "--scores", "lsr")
    assert scored == []


def test_the_papers_number_stands_beside_the_honest_one(capfd, kept, scored, tmp_path):
    found = written(tmp_path, kept, "--paper", "--nets", "MLP,LeNet")
    (matrix,) = scored
    title = found["scores"][0]["name"]
    honest, paper = ([row for row in found["scores"] if row["selection"] == how] for how in ("honest", "paper"))
    assert [row["name"] for row in paper] == [f"{title}, best of 4 steps on test"] * 2
    for row, told in zip(paper, found["steps"], strict=True):
        assert (told["of"], told["network"]) == (title, row["network"])
        assert [step["step"] for step in told["steps"]] == [1, 2, 3, 4]
        means = [step["mean"] for step in told["steps"]]
        assert row["mean"] == max(means)
        assert told["step"] == row["step"] == 1 + means.index(max(means))
        assert row["values"] == told["steps"][told["step"] - 1]["values"]
        (own,) = [each["mean"] for each in honest if (each["name"], each["network"]) == (title, row["network"])]
        assert own in means, "the chosen set is one of the kept, and is trained on once"
    kinds = [(entry.selection, entry.kind) for entry in matrix.rows]
    assert kinds.count(("paper", "distilled")) == 3
    out = capfd.readouterr().out
    assert "best of 4 steps on test" in out
    assert ", step 1" not in out
    assert "mean ± std (number of networks)" in out
    assert [row["first"] for row in found["comparisons"]] == [title] * 2


def test_a_run_without_kept_steps_has_no_papers_number(capfd, small_synset, scored):
    line = refused(capfd, small_synset.parent, "--paper")
    assert "evaluate_every=N --set keep_scored=true" in line
    assert scored == []


@pytest.mark.parametrize("test", ["welch", "bootstrap"])
def test_two_sets_are_compared(test, capfd, small_synset, kept, scored, tmp_path):
    found = written(tmp_path, small_synset, kept, "--test", test)
    pairs = [(row["first"], row["second"]) for row in found["comparisons"]]
    assert (small_synset.parent.name, kept.name) in pairs
    assert pairs[1:] == [(name, "random, 1 a class") for name in (small_synset.parent.name, kept.name)]
    assert {row["method"] for row in found["comparisons"]} == {test}
    assert f"test: {test}" in capfd.readouterr().out
    assert "'t'" in refused(capfd, small_synset, "--test", "t")


def test_another_projects_files_are_scored_as_they_are(capfd, small_synset, scored, tmp_path):
    synset = SyntheticSet.load(small_synset)
    write_synset(synset, tmp_path / "mtt", "mtt")
    (tmp_path / "mtt" / "raydd.json").unlink()
    capfd.readouterr()
    found = written(tmp_path, tmp_path / "mtt", "--dataset", "digits", "--lr", "0.03", "--nets", "MLP")
    err = capfd.readouterr().err
    assert "read as mtt, 10 images of digits" in err
    assert "preprocessing is not kept: taken as normalise" in err
    assert (found["settings"]["lr"], found["settings"]["dataset"]) == (0.03, "digits")
    (given,) = scored[0].rows[0].sets
    assert torch.equal(given.images, synset.images)
    assert float(given.lr) == pytest.approx(0.03)
    line = refused(capfd, tmp_path / "mtt")
    assert "--dataset" in line
    line = refused(capfd, tmp_path / "mtt", "--dataset", "digits", "--format", "matt")
    assert "'matt'" in line
    line = refused(capfd, tmp_path / "mtt", "--dataset", "digits", "--preprocessing", "raw01")
    assert "544 of 640 pixels outside [0, 1]" in line


def test_a_run_folder_is_its_set(capfd, small_synset, scored, tmp_path):
    by_folder = written(tmp_path, small_synset.parent)
    by_file = written(tmp_path, small_synset)
    assert by_folder["scores"] == by_file["scores"]
    first, second = (matrix.rows[0].sets[0] for matrix in scored)
    assert torch.equal(first.images, second.images)
