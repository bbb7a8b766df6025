"""Runs and sets at a URI in every command that reads them, and a line from every command that cannot write there."""

import json

import pytest

import raydd
from raydd.cli import run

TINY = ["--set", "steps=2", "--set", "threads=1", "--network", "MLP"]


@pytest.fixture
def there(s3, tmp_path, monkeypatch, capsys):
    """The URI of a run; the current folder is empty."""
    uri = s3(f"bucket/{tmp_path.name}")
    monkeypatch.chdir(tmp_path)
    assert run(["distill", "--method", "dm", *TINY, "--out", uri, "--json"]) == 0
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert outputs["synset.arrow"] == f"s3://bucket/{tmp_path.name}/synset.arrow"
    return uri


@pytest.mark.remote
def test_commands_read_a_run_and_its_set_at_a_uri(there, ray2, tmp_path, capsys):
    uri, _, query = there.partition("?")
    file = f"{uri}/synset.arrow?{query}"
    assert len(raydd.read_synset(there).synset.images) == 10
    assert run(["report", there]) == 0
    assert "dm" in (tmp_path / "report.html").read_text()
    assert run(["analyse", "memory", there, "--json"]) == 0
    assert (tmp_path / "memory.png").exists()
    assert run(["export", there, "--out", "pictures"]) == 0
    assert len([*(tmp_path / "pictures").rglob("*.png")]) == 10
    assert run(["import", file, "--out", "copy.arrow"]) == 0
    capsys.readouterr()
    assert run(["finish", there, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["step"], document["steps"]) == (2, 2)
    words = ["--nets", "MLP", "--seeds", "1", "--baselines", "none", "--num-workers", "1", "--set", "epochs=1"]
    assert run(["evaluate", there, file, *words, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert len([score for score in scores if score.get("asked")]) == 2
    assert scores[0]["mean"] == scores[1]["mean"]
    assert "s3:" not in {path.name for path in tmp_path.iterdir()}


@pytest.mark.rows(
    "words",
    [["export", "SET", "--out", "s3://b/x"], ["buffer", "import", "s3://b/x", "--out", "y", "--dataset", "digits"]],
)
def test_a_uri_where_a_path_is_needed_is_refused_in_a_line(words, small_synset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([str(small_synset) if word == "SET" else word for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a URI, and a path on this machine is needed here" in line
    assert not list(tmp_path.iterdir())


def test_a_uri_without_a_run_is_refused_in_a_line(s3, capsys):
    uri = s3("bucket/nothing-here")
    for words in (["report", uri], ["evaluate", uri], ["export", uri, "--out", "x"]):
        assert run(words) == 2
        line = capsys.readouterr().err.strip()
        assert "s3://bucket/nothing-here" in line
        assert "holds no run, buffer or file of raydd" in line
        assert "s3cret" not in line
    for words in (["report", "ftp://b/x"], ["finish", "ftp://b/x"]):
        assert run(words) == 2
        assert "use a folder, or a URI of s3://" in capsys.readouterr().err
