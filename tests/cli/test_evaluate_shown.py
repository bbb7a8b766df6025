"""What an evaluation shows and writes: names of rows, titles, the document, notes, help; trainings are pretended."""

import hashlib
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

from raydd.cli import app, run
from raydd.cli.paths import out_file, row_names
from raydd.config.parsing import build, parse_settings
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Outcome
from raydd.evaluation.protocols import find_protocol
from raydd.interop.layouts import LAYOUTS
from raydd.interop.writing import write_synset
from raydd.io.document import without_checksum
from raydd.numerics.rng import generator


@pytest.fixture
def scored(monkeypatch):
    """The matrices that would have been trained; accuracies go by row, so that sets differ."""
    from raydd.remote import session, train_matrix as remote

    asked = []

    def pretend(matrix, where, show, known, keep):
        asked.append(matrix)
        return {job: Outcome(0.5 + 0.01 * job.row + 0.001 * job.seed, 1.0) for job in matrix.jobs()}

    monkeypatch.setattr(remote, "train_matrix", pretend)
    monkeypatch.setattr(session, "_connected", lambda *_: nullcontext())
    monkeypatch.setenv("COLUMNS", "200")
    return asked


@pytest.fixture
def two(small_synset, tmp_path):
    """Two run folders that only a folder in the middle of a long path tells apart."""
    paths = []
    for word in ("datm", "mtt"):
        path = tmp_path / ("a-long-name-of-a-folder" * 3) / word / "seed-0" / "synset.arrow"
        path.parent.mkdir(parents=True)
        path.write_bytes(small_synset.read_bytes())
        paths.append(path)
    return paths


def evaluate(capfd, *words, code=0):
    capfd.readouterr()
    assert run(["evaluate", *map(str, words), "--seeds", "2", "--set", "real_epochs=0"]) == code
    return capfd.readouterr()


def titles(out):
    return [line.strip() for line in out.splitlines() if "%" in line and "│" not in line and "┃" not in line]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/synset.arrow", "runs/b"], ["a", "b"]),
        (["runs/a/s0", "runs/b/s0/synset.arrow", "runs/b/s1"], ["a/s0", "b/s0", "s1"]),
        (["/x/images_best.pt", "/y/images_best.pt"], ["x/images_best.pt", "y/images_best.pt"]),
        (["/b", "/a/b"], ["/b", "a/b"]),
        (["a/../a/b", "a/c"], ["b", "c"]),
        (["runs/a", "runs/a/synset.arrow", "runs/b"], ["a", "a", "b"]),  # one set twice: titles number them
    ],
)
def test_names_are_the_shortest_that_tell_paths_apart(paths, names):
    assert row_names([Path(path) for path in paths]) == names


def test_two_sets_are_told_apart_on_a_narrow_screen(capfd, two, scored, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = evaluate(capfd, *two, "--baselines", "random")
    rows = [[word.strip() for word in line.split("│")] for line in out.splitlines() if "│" in line]
    assert [row[0] for row in rows[1:3]] == ["datm/seed-0", "mtt/seed-0"]
    assert "…" not in out
    assert "a-long-name" not in out


def test_a_single_set_is_called_by_method_and_ipc(capfd, small_synset, scored, tmp_path):
    evaluate(capfd, small_synset, "--baselines", "none", "--out", tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())
    assert [one["name"] for one in found["sets"]] == ["mtt, 1 a class"]


def test_every_table_says_what_it_is(capfd, small_synset, scored):
    out, _ = evaluate(capfd, small_synset, "--scores", "ars", "--baselines", "random", "--nets", "MLP,LeNet")
    found = [line.split(":")[0].split(" in %")[0] for line in titles(out)]
    assert found == [
        "scores",
        "trainings of the robust scores",
        "robust scores",
        "differences of test accuracy in points of %; test",
    ]


def test_the_document_names_the_files_and_the_protocol(capfd, two, scored, tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("base: mtt\nepochs: 7\n")
    out = tmp_path / "new" / "scores.json"
    words = ("--protocol", own, "--set", "epochs=9", "--baselines", "none", "--out", out)
    shown, _ = evaluate(capfd, *two, *words)
    found = json.loads(out.read_text())
    assert f"scores: {out}" in shown
    names = ["datm/seed-0", "mtt/seed-0"]
    assert found["sets"] == [
        {"name": name, "path": str(path), "digest": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in zip(names, two, strict=True)
    ]
    wanted = find_protocol(str(own)).changed(9, 0)
    assert found["protocol"] == wanted.model_dump(mode="json")
    assert (found["protocol"]["name"], found["protocol"]["epochs"]) == ("mine, 9 epochs", 9)
    assert [record["name"] for record in found["scores"] if record.get("asked")] == names
    assert [(row["first"], row["second"]) for row in found["comparisons"]] == [tuple(names)]
    printed, _ = evaluate(capfd, *two, *words, "--json")
    assert json.loads(printed) == without_checksum(found) | {"outputs": {"scores": str(out)}}


def test_a_changed_file_is_told_as_it_was(capfd, small_synset, scored, tmp_path, monkeypatch):
    """The digest is of what was scored, though the file is another when the trainings are done."""
    from raydd.api import evaluate as evaluation

    path = tmp_path / "synset.arrow"
    path.write_bytes(small_synset.read_bytes())
    true = evaluation.evaluate

    def then_changed(*rest, **named):
        found = true(*rest, **named)
        path.write_bytes(b"another")
        return found

    monkeypatch.setattr(evaluation, "evaluate", then_changed)
    evaluate(capfd, path, "--baselines", "none", "--out", tmp_path / "s.json")
    (one,) = json.loads((tmp_path / "s.json").read_text())["sets"]
    assert one["digest"] == hashlib.sha256(small_synset.read_bytes()).hexdigest()


def test_another_projects_set_is_compared_too(capfd, small_synset, scored, tmp_path):
    """Nobody knows how it was chosen, and it is a folder of files."""
    write_synset(SyntheticSet.load(small_synset), tmp_path / "theirs", "mtt")
    out = tmp_path / "s.json"
    evaluate(capfd, tmp_path / "theirs", small_synset, "--baselines", "none", "--out", out)
    found = json.loads(out.read_text())
    assert [(row["first"], row["second"]) for row in found["comparisons"]] == [("theirs", small_synset.parent.name)]
    assert found["sets"][0] == {"name": "theirs", "path": str(tmp_path / "theirs"), "digest": None}


def test_a_document_that_cannot_be_written_is_refused_first(capfd, small_synset, scored, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for out, words in (
        (file / "scores.json", "Not a directory"),
        (file / "deep" / "scores.json", "Not a directory"),
        ("/dev/null", "no plain file"),
        ("/proc/scores.json", "cannot be written"),
    ):
        shown, err = evaluate(capfd, small_synset, "--out", out, code=2)
        assert (shown, err.count("\n")) == ("", 1)
        assert words in err
    assert scored == []
    assert list(tmp_path.iterdir()) == [file]


def test_what_can_be_written_is_left_as_it_is(tmp_path):
    there = tmp_path / "there.json"
    there.write_text("{}")
    for path in (there, tmp_path / "deep" / "er" / "new.json"):
        assert out_file(path, "scores.json") == path
    assert out_file(tmp_path, "scores.json") == tmp_path / "scores.json"
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]
    assert there.read_text() == "{}"


def test_a_folder_takes_the_scores_under_their_usual_name(capfd, small_synset, scored, tmp_path):
    out, _ = evaluate(capfd, small_synset, "--baselines", "none", "--out", tmp_path)
    assert f"scores: {tmp_path / 'scores.json'}" in out
    assert json.loads((tmp_path / "scores.json").read_text())["sets"][0]["path"] == str(small_synset)


def test_scores_are_shown_also_where_writing_fails(capfd, small_synset, scored, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raydd.api.evaluate.write_document", full)
    words = (small_synset, "--baselines", "none", "--out", tmp_path / "scores.json")
    out, err = evaluate(capfd, *words, code=1)
    assert "mtt, 1 a class" in out
    assert "No space left" in err


def test_the_note_on_experts_says_what_they_do(capfd, small_synset, small_buffer, scored, tmp_path):
    soft = tmp_path / "synset.arrow"
    hard = SyntheticSet.load(small_synset)
    replace(hard, labels=torch.randn((10, 10), generator=generator(0))).save(soft)
    names = "its experts choose herding, kcenter, forgetting, glister; forgetting asks every snapshot about each image"
    label = "its experts label random images for the robust scores"
    for words, told in (
        ((small_synset,), names),
        ((small_synset, "--baselines", "random,herding"), "its experts choose herding"),
        ((small_synset, "--baselines", "none"), "no row needs its experts"),
        ((small_synset, "--baselines", "none", "--scores", "ars"), "no row needs its experts"),
        ((soft, "--baselines", "none", "--scores", "ars"), label),
    ):
        _, err = evaluate(capfd, *words, "--buffer", small_buffer)
        assert [line for line in err.splitlines() if "experts" in line] == [f"{small_buffer}: {told}"]


def test_no_note_on_experts_that_are_not_there(capfd, small_synset, scored, tmp_path):
    _, err = evaluate(capfd, small_synset, "--buffer", tmp_path / "nowhere", code=2)
    assert err.count("\n") == 1
    assert "nowhere" in err
    assert scored == []


def test_help_says_what_happens_without_a_flag(capfd):
    assert run(["evaluate", "--help"]) == 0
    out = capfd.readouterr().out
    lines = {text.split()[0]: " ".join(text.split()) for text in re.split(r"\n(?=  --)", out)[1:]}
    assert all(re.search(rf"\b{name}\b", lines["--format"]) for name in LAYOUTS)
    for flag in ("--nets", "--baselines", "--preprocessing", "--lr", "--format"):
        assert "by default" in lines[flag], flag
    assert "The same" not in out


def test_the_guide_has_the_fields_and_true_commands(capfd, small_synset, scored, tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    evaluate(capfd, small_synset, "--baselines", "none", "--out", tmp_path / "s.json")
    section = guide.split("## What is written")[1].split("##")[0]
    told = {word for line in re.findall(r"^\| (`.*?) \|", section, re.M) for word in re.findall(r"`(\w+)`", line)}
    found = json.loads((tmp_path / "s.json").read_text())
    assert told == set(found)
    assert all(f"`{key}`" in section for record in found["scores"] for key in record)
    commands = re.findall(r"^    raydd (\w+) (.*)$", guide, re.M)
    assert {name for name, _ in commands} == {"evaluate", "distill"}
    entries = typer.main.get_command(app).commands
    for name, words in commands:
        parsed = entries[name].make_context(name, words.split())
        config = {"evaluate": EvaluateConfig, "distill": DistillConfig}[name]
        assert build(config, parse_settings(parsed.params["settings"] or ()))
    for word in re.findall(r"--set (\w+)=", re.sub(r"raydd distill.*|evaluate_every.*", "", guide)):
        assert word in EvaluateConfig.model_fields, word
