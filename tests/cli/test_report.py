"""`raydd report`: where the page goes, what is refused, and that the quick start ends with one."""

import json
import shutil
from contextlib import nullcontext

import pytest

from raydd.cli import run
from raydd.evaluation.jobs import Outcome


@pytest.fixture
def digits(small_synset, tmp_path):
    shutil.copytree(small_synset.parent, tmp_path / "digits")
    return tmp_path / "digits"


def test_the_page_lies_in_the_runs_folder(digits, capfd):
    assert run(["report", str(digits)]) == 0
    page = digits / "report.html"
    assert capfd.readouterr().out.splitlines()[-1] == f"open {page}"
    assert page.read_text().startswith("<!doctype html>")
    before = page.read_bytes()
    assert run(["report", str(digits)]) == 0  # the page itself is no part of the run
    assert page.read_bytes() == before


def test_the_page_of_a_file_lies_beside_it(digits, capfd):
    assert run(["report", str(digits / "synset.arrow"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["outputs"] == {"report": str(digits / "synset-report.html")}


def test_a_folder_that_cannot_be_written_asks_for_another_place(digits, monkeypatch, capfd):
    def refuse(runs, out, places):
        raise PermissionError(13, "Permission denied", str(out))

    monkeypatch.setattr("raydd.report.build.write_report", refuse)
    assert run(["report", str(digits)]) == 2
    page = digits / "report.html"
    assert (
        capfd.readouterr().err == f"raydd: {page} cannot be written (Permission denied); name another place by --out\n"
    )


def test_the_page_of_several_lies_here(digits, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["report", "digits", str(digits), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document == {"runs": ["digits", str(digits)], "missing": [], "outputs": {"report": "report.html"}}
    assert "side by side" in (tmp_path / "report.html").read_text()
    assert run(["report", "digits", "--out", "pages/own.html"]) == 0
    assert (tmp_path / "pages" / "own.html").is_file()
    assert run(["report", "digits", "--out", "pages"]) == 0
    assert (tmp_path / "pages" / "report.html").read_bytes() == (tmp_path / "pages" / "own.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report"], "Missing argument"),
        (["report", "nothing"], "nothing does not exist: name a folder that raydd wrote"),
        (["report", "digits/checkpoint"], "digits/checkpoint holds state.arrow, which is no run"),
        (["report", "digits", "--out", "page"], "--out page: a report is a page; use page.html, or a folder that"),
        (["report", "digits", "--out", "page.json"], "--out page.json: a report is a page; use page.html"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(digits, arguments, said, monkeypatch, capfd):
    monkeypatch.chdir(digits.parent)
    assert run(arguments) == 2
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in digits.parent.iterdir()] == ["digits"]
    assert not (digits / "report.html").exists()


def test_a_page_that_cannot_be_written_is_told(digits, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert run(["report", str(digits), "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert "file" in capfd.readouterr().err


def test_the_quick_start_ends_with_its_page(small_buffer, tmp_path, monkeypatch, capfd):
    """The words and the files; the trainings themselves are done by `test_quickstart.py`."""
    monkeypatch.setattr(
        "raydd.remote.train_matrix.train_matrix", lambda matrix, *_: {job: Outcome(0.5, 1.0) for job in matrix.jobs()}
    )
    monkeypatch.setattr("raydd.remote.session._connected", lambda *_: nullcontext())
    monkeypatch.setattr("raydd.remote.training_workers.early_workers", lambda *_: nullcontext())
    monkeypatch.setattr(
        "raydd.api.quick_start.train_experts", lambda config, out, **_: shutil.copytree(small_buffer, out)
    )
    out = tmp_path / "quick"
    words = ["quickstart", "--out", str(out)]
    for setting in ("steps=2", "student_steps=1", "window.high=1", "threads=1", "experts.network=MLP"):
        words += ["--set", setting]
    assert run([*words, "--set", "experts.num_experts=2", "--set", "experts.epochs=3"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"open {out / 'report.html'}"
    page = (out / "report.html").read_text()
    assert all(f'id="{anchor}"' in page for anchor in ("overview", "images", "scores", "experts", "made"))
