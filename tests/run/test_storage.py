"""Runs at a URI: saved as they go on, resumed anywhere, with the files of a run in a folder."""

import re

import pytest

from raydd.api.distill import distill
from raydd.cli import run as command
from raydd.config.parsing import build
from raydd.config.schema import DistillConfig
from raydd.io import store_claim
from raydd.io.stored_folder import StoredFolder, stored_copy
from raydd.run import storage as storages
from raydd.run.run import Run

TOY = {"method": "dm", "ipc": 1, "steps": 6, "threads": 1, "checkpoint_every": 2, "experts": {"network": "MLP"}}
SAME = ("config.yaml", "metrics.jsonl", "checkpoint/state.arrow", "synset.arrow", "synset.png")


@pytest.fixture
def uri(s3, tmp_path, monkeypatch):
    """The URI of an empty folder; checkpoints are saved at once."""
    monkeypatch.setattr(storages, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(storages, "SAVE_SHARE", 1e9)
    monkeypatch.setattr(store_claim, "POLL_SECONDS", 0.1)
    return s3(f"bucket/{tmp_path.name}")


def toy(**settings):
    return build(DistillConfig, TOY, settings)


def files(folder):
    return {name: (folder / name).read_bytes() for name in SAME}


@pytest.fixture
def here(tmp_path):
    """The files of an uninterrupted run in a folder."""
    distill(toy(), tmp_path / "here")
    return files(tmp_path / "here")


def test_a_run_at_a_uri_has_the_files_of_one_in_a_folder(uri, here, tmp_path, capsys):
    assert len(distill(toy(), uri).images) == 10
    assert files(stored_copy(uri)) == here
    assert (stored_copy(uri) / "frames" / "step-000006.png").exists()
    shown = capsys.readouterr().err
    assert f"s3://bucket/{tmp_path.name}" in shown
    assert "config.yaml has everything" in shown
    assert not re.search(r"\bwork/", shown)
    distill(toy(), (tmp_path / "there").as_uri())
    assert files(tmp_path / "there") == here


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint_there(uri, here, monkeypatch):
    class Killed(BaseException):
        pass

    steps = Run.steps

    def dying(run):
        for step in steps(run):
            yield step
            if step.step == 5:
                raise Killed

    monkeypatch.setattr(Run, "steps", dying)
    with pytest.raises(Killed):
        distill(toy(), uri)
    assert not (stored_copy(uri) / "synset.arrow").exists()
    with pytest.raises(ValueError, match=r"^s3://\S+ holds a run already; go on with --resume"):
        distill(toy(), uri)
    seen = []
    monkeypatch.setattr(Run, "steps", lambda run: (seen.append(run.saved), steps(run))[1])
    distill(toy(), uri, resume=True)
    assert seen == [4]
    assert files(stored_copy(uri)) == here


def test_a_store_that_is_away_for_a_while_is_a_note_and_one_that_cannot_be_written_an_error(
    uri, here, monkeypatch, capsys
):
    commit, fails = StoredFolder.commit, iter([False, True, True])

    def sometimes(stored, folder):
        if next(fails, False):
            raise OSError("no network")
        commit(stored, folder)

    with monkeypatch.context() as patch:
        patch.setattr(StoredFolder, "commit", sometimes)
        distill(toy(), uri)
    assert files(stored_copy(uri)) == here
    assert len(re.findall(r"step \d is not saved yet: no network", capsys.readouterr().err)) == 2
    words = ["distill", "--method", "random", "--out", re.sub("bucket/", "nowhere/", uri)]
    assert command(words) == 1
    shown = capsys.readouterr().err
    assert "s3://nowhere/" in shown
    assert len(shown.splitlines()) == 1


def test_a_uri_that_holds_a_buffer_is_refused(uri, small_buffer, capsys):
    assert command(["buffer", "copy", str(small_buffer), uri]) == 0
    with pytest.raises(ValueError, match=r"^s3://\S+ holds a buffer; name another --out"):
        distill(toy(), uri)
