"""The command of class-incremental learning: its flags, its document, its table and its refusals."""

import json

import pytest

from raydd.api.continual import class_order
from raydd.cli import run
from raydd.evaluation.jobs import Outcome
from raydd.io.document import without_checksum


@pytest.fixture
def asked(pretend):
    """The trainings that were asked for; what one comes to is told by how many classes it has."""
    return pretend(lambda matrix, job: Outcome(1 - len(matrix.rows[job.row].classes) / 20, 1.0))


def document(capfd, *words):
    assert run(["continual", *map(str, words), "--json"]) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_flags_reach_the_trainings(capfd, small_synset, asked, tmp_path):
    words = ["--steps", "2,5", "--nets", "LeNet,MLP", "--seeds", "3", "--seed", "7", "--protocol", "dcbench"]
    words += ["--baselines", "kmeans", "--set", "epochs=4", "--set", "real_epochs=0", "--num-workers", "2"]
    found = document(capfd, small_synset, *words, "--device", "cpu", "--out", tmp_path / "out")
    ((matrix, workers, known, _),) = asked
    assert (matrix.networks, matrix.seeds, workers, known) == (("LeNet", "MLP"), range(7, 10), 2, 0)
    assert (matrix.protocol.name, matrix.protocol.epochs, matrix.device) == ("dcbench, 4 epochs", 4, "cpu")
    assert {entry.kind for entry in matrix.rows} == {"distilled", "kmeans"}
    assert [order["classes"] for order in found["orders"]] == [list(class_order(seed, 10)) for seed in (7, 8, 9)]
    assert {(run["steps"], tuple(run["classes"])) for run in found["runs"]} == {(2, (5, 10)), (5, (2, 4, 6, 8, 10))}
    assert found["runs"][0]["mean"] == [0.75, 0.5]
    assert found["outputs"] == {name: str(tmp_path / "out" / name) for name in ("continual.png", "continual.json")}
    saved = json.loads((tmp_path / "out" / "continual.json").read_text())
    assert {key: value for key, value in found.items() if key != "outputs"} == without_checksum(saved)
    assert (tmp_path / "out" / "continual.png").stat().st_size > 1000


def test_unasked_it_is_five_runs_of_5_and_10_steps(capfd, small_synset, asked, tmp_path):
    found = document(capfd, small_synset, "--out", tmp_path)
    ((matrix, workers, _, _),) = asked
    assert {run["steps"] for run in found["runs"]} == {5, 10}
    assert (matrix.networks, len(matrix.seeds), workers) == (("MLP",), 5, None)
    assert list(dict.fromkeys(entry.kind for entry in matrix.rows)) == ["distilled", "random", "herding", "whole"]


def test_several_sets_are_called_by_what_tells_their_paths_apart(capfd, small_synset, small_buffer, asked, tmp_path):
    words = ["--steps", "2", "--seeds", "1", "--buffer", small_buffer, "--out", tmp_path]
    found = document(capfd, small_synset, small_synset.parent, *words)
    called = [run["name"] for run in found["runs"]]
    assert called[:2] == ["digits", "digits (2)"]
    assert called[2:4] == ["random, 1 a class", "herding (features), 1 a class"]


def test_a_file_where_a_folder_is_needed_is_refused_before_the_trainings(capfd, small_synset, asked, tmp_path):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "deep"):
        assert run(["continual", str(small_synset), "--out", str(out)]) == 2
        err = capfd.readouterr().err
        assert f"--out {out} cannot be written: {tmp_path / 'file'} is a file" in err
        assert err.count("\n") == 1
    assert asked == []
    assert (tmp_path / "file").read_text() == "kept"


def test_a_table_a_number_of_steps_has_a_line_a_step(capfd, small_synset, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--steps", "2,5", "--baselines", "none", "--seeds", "2", "--set", "real_epochs=0"]
    assert run(["continual", str(small_synset), *words, "--out", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")] for line in out.splitlines() if "│" in line]
    assert [line[:2] for line in cells if line[0] != "memory"] == [
        ["5 classes", "75.0 ± 0.0 (2)"],
        ["10 classes", "50.0 ± 0.0 (2)"],
        ["mean over steps", "62.5 ± 0.0 (2)"],
        ["2 classes", "90.0 ± 0.0 (2)"],
        ["4 classes", "80.0 ± 0.0 (2)"],
        ["6 classes", "70.0 ± 0.0 (2)"],
        ["8 classes", "60.0 ± 0.0 (2)"],
        ["10 classes", "50.0 ± 0.0 (2)"],
        ["mean over steps", "70.0 ± 0.0 (2)"],
    ]
    assert f"continual.json: {tmp_path / 'continual.json'}" in out


def test_a_second_call_trains_nothing_and_fresh_trains_all(capfd, small_synset, asked, tmp_path):
    words = (small_synset, "--steps", "2", "--seeds", "2", "--out", tmp_path)
    first = document(capfd, *words)
    assert document(capfd, *words) == first
    assert len(asked) == 1
    assert document(capfd, *words, "--fresh") == first
    assert [call.known for call in asked] == [0, 0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--steps", "five"), "--steps 'five': give whole numbers with commas"),
        (("--steps", "0"), "10 classes cannot come in 0 steps; use 1 to 10 --steps"),
        (("--steps", "5,11"), "10 classes cannot come in 11 steps; use 1 to 10 --steps"),
        (("--steps", ","), "no number of --steps; use such as 5,10"),
        (("--seeds", "0"), "seeds"),
        (("--baselines", "ranom"), "unknown baseline 'ranom'"),
        (("--nets", "MPL"), "'MPL'"),
        (("--protocol", "dn"), "unknown protocol 'dn'"),
        (("--device", "tpu"), "--device 'tpu'"),
        (("--set", "scores=lrs"), "scores"),
        (("--set", "test=welch"), "test: such settings are of `raydd evaluate`; leave them out here"),
        (("--set", "test=welch", "--set", "score_weight=0.5"), "score_weight, test: such settings"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, told, capfd, small_synset, asked, tmp_path):
    assert run(["continual", str(small_synset), *words, "--out", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert asked == []
    assert not (tmp_path / "out").exists()
