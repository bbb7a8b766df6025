"""The command that ranks architectures; the trainings themselves are pretended, and done by `tests/api/test_nas.py`."""

import json
from pathlib import Path

import pytest

from raydd.cli import run
from raydd.evaluation.jobs import Outcome
from raydd.io.document import without_checksum
from raydd.models.spaces import SPACES, sample
from raydd.numerics.rng import generator

WORDS = ("--sample", "7", "--epochs", "9", "--real-epochs", "2", "--top", "2,5,20")


@pytest.fixture
def asked(pretend):
    """The trainings that were asked for; the i-th architecture comes to 0.1 + 0.1 i, but with random images."""

    def outcome(matrix, job):
        place = matrix.networks.index(job.network)
        steps = 6 - place if matrix.rows[job.row].kind == "random" else place
        return Outcome(0.1 + 0.1 * steps, 60.0)

    return pretend(outcome)


def document(capfd, *words):
    assert run(["nas", *map(str, words), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def refused(capfd, *words):
    """The one line on stderr that a command ends with."""
    assert run(["nas", *map(str, words)]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    return captured.err.strip().splitlines()[-1]


def test_flags_reach_the_trainings_and_the_document(capfd, small_synset, asked, tmp_path):
    rungs = ("--asha", "--first-rung", "2", "--reduction", "2")
    more = ("--seeds", "2", "--seed", "3", "--protocol", "mtt", "--split", "test", "--num-workers", "2")
    found = document(capfd, small_synset, *WORDS, *rungs, *more, "--baselines", "kmeans", "--out", tmp_path / "out")
    ((matrix, workers, _, _),) = asked
    names = [str(row) for row in sample(SPACES["convnet720"], 7, generator(3, "nas", "convnet720"))]
    assert list(matrix.networks) == names == list(found["real"])
    assert (matrix.rungs, matrix.seeds, workers) == (((2, 4, 8), 2), range(3, 5), 2)
    assert (matrix.protocol.epochs, matrix.protocol.real_epochs, matrix.protocol.lr) == (9, 2, None)
    assert [(entry.kind, entry.split) for entry in matrix.rows] == [
        ("distilled", "test"),
        ("kmeans", "test"),
        ("whole", "test"),
    ]
    assert (found["protocol"], found["split"], found["selection"]) == ("mtt, 9 epochs", "test", "paper")
    assert [top["k"] for top in found["proxies"][0]["agreement"]["tops"]] == [2, 5, 20]
    assert sorted(found["outputs"]) == ["nas.json", "nas.png", "ranking.csv", "real.json"]
    assert all(Path(path).stat().st_size for path in found["outputs"].values())
    outputs = found.pop("outputs")
    assert without_checksum(json.loads(Path(outputs["nas.json"]).read_text())) == found


def test_the_table_and_the_winners_are_shown(capfd, small_synset, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert run(["nas", str(small_synset), *WORDS, "--out", str(tmp_path)]) == 0
    captured = capfd.readouterr()
    names = [str(row) for row in sample(SPACES["convnet720"], 7, generator(0, "nas", "convnet720"))]
    lines = captured.out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]
    shown = {first: own for first, own, _ in cells}
    assert shown["proxy"] == "mtt, 1 a class"
    assert (shown["Spearman, all"], shown["Kendall tau-b"]) == ("1.00", "1.00")
    tops = [(shown[f"Spearman, top {k}"], shown[f"overlap, top {k}"]) for k in (2, 5, 20)]
    assert tops == [("1.00", "2 of 2"), ("1.00", "5 of 5"), ("-", "-")]
    assert (shown["regret, top 2"], shown["time"]) == ("0.0", "7 min 0 s")
    best = f"mtt, 1 a class: the best is {names[-1]}, 70.0 %; trained on real data 70.0 %, 0.0 below the best of all"
    assert best in lines
    worst = (
        f"random, 1 a class: the best is {names[0]}, 70.0 %; trained on real data 10.0 %, 60.0 below the best of all"
    )
    assert worst in lines
    assert any(line.startswith(f"real data: the best is {names[-1]}, 70.0 %; all took ") for line in lines)
    assert f"nas.png: {tmp_path / 'nas.png'}" in lines
    noted = captured.err.splitlines()[0]
    assert noted == "convnet720: 7 of 720 architectures; 2 proxy sets and the whole data, 1 seed: 21 trainings"


def test_a_real_ranking_from_a_file_or_none(capfd, small_synset, asked, tmp_path):
    own = document(capfd, small_synset, *WORDS, "--out", tmp_path / "own")
    budget = (*WORDS[:4], "--fresh")
    found = document(capfd, small_synset, *budget, "--real", own["outputs"]["real.json"], "--out", tmp_path / "two")
    assert found["real"] == own["real"]
    assert sorted(found["outputs"]) == ["nas.json", "nas.png", "ranking.csv"]
    found = document(capfd, small_synset, *budget, "--real", "none", "--out", tmp_path / "three")
    assert found["real"] is None
    assert sorted(found["outputs"]) == ["nas.json", "ranking.csv"]
    assert [len(matrix.rows) for matrix, *_ in asked] == [3, 2, 2]
    assert run(["nas", str(small_synset), *budget, "--real", "none", "--out", str(tmp_path / "three")]) == 0
    shown = capfd.readouterr().out.splitlines()[0]
    assert shown == f"mtt, 1 a class: the best is {list(own['real'])[-1]}, 70.0 %"


def test_several_sets_are_called_by_what_tells_their_paths_apart(capfd, small_synset, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = small_synset.parent
    found = document(capfd, small_synset, folder, *WORDS, "--baselines", "none")
    assert [proxy["name"] for proxy in found["proxies"]] == ["digits", "digits (2)"]
    assert found["outputs"]["nas.json"] == "runs/digits-convnet720-nas/nas.json"
    assert (tmp_path / found["outputs"]["nas.json"]).exists()


def test_a_set_of_no_known_holdout_is_named_in_a_note(capfd, small_synset, asked, tmp_path):
    assert document(capfd, small_synset, *WORDS, "--out", tmp_path / "own")["selection"] == "honest"
    assert run(["export", str(small_synset), "--format", "hf", "--out", str(tmp_path / "hf")]) == 0
    (tmp_path / "hf" / "raydd.json").unlink()
    words = ("--dataset", "digits", "--lr", "0.07", *WORDS, "--out", str(tmp_path / "out"))
    assert run(["nas", str(tmp_path / "hf"), *words]) == 0
    (noted,) = (line for line in capfd.readouterr().err.splitlines() if "selection" in line)
    assert noted.startswith("set, 1 a class does not say which images were held out of it")
    saved = json.loads((tmp_path / "out" / "nas.json").read_text())
    assert (saved["selection"], [proxy["selection"] for proxy in saved["proxies"]]) == (
        "unknown",
        ["unknown", "honest"],
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--space", "nasbench"), "unknown space 'nasbench': did you mean nasbench201?"),
        (("--sample", "800"), "a sample of 800 rows from a space of 720"),
        (("--sample", "0"), "sample = 0: input should be greater than or equal to 1"),
        (("--top", "five"), "--top 'five': give whole numbers with commas"),
        (("--top", "0"), "top.0 = 0: input should be greater than or equal to 1"),
        (("--split", "train"), "split = 'train': input should be 'validation' or 'test'"),
        (("--reduction", "1"), "reduction = 1: input should be greater than or equal to 2"),
        (("--reduction", "3"), "--reduction 3 stops nothing by itself: add --asha"),
        (("--asha", "--epochs", "1"), "--asha: a training of 1 epoch cannot be stopped early; give 2 --epochs or more"),
        (("--first-rung", "3"), "--first-rung 3 stops nothing by itself: add --asha"),
        (("--real", "none", "--real-epochs", "3"), "--real-epochs 3: with --real none nothing is trained"),
        (("--num-workers", "0"), "--num-workers 0: at least 1 worker is needed"),
        (("--device", "tpu"), "--device 'tpu': use auto, cpu or cuda"),
        (("--set", "epoch=3"), "unknown setting 'epoch'; did you mean epochs"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(words, said, capfd, small_synset, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capfd, small_synset, *words)
    assert asked == []
    assert list(tmp_path.iterdir()) == []
