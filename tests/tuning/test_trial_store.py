"""Runs of trials in a storage: what is copied is complete, and the last copy is taken."""

import shutil

import pytest
from pyarrow.fs import LocalFileSystem

from raydd.io.document import write_document
from raydd.tuning.checkpoint_transfer import INDEX, export_checkpoint
from raydd.tuning.trial import progress_of
from raydd.tuning.trial_store import TrialStore


def write_run(folder, step, reports, done=False, probe=False):
    """A run folder of some progress; its files say which step they are of."""
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "checkpoint/state.arrow", "best.arrow", *(["probe.jsonl"] if probe else [])):
        (folder / name).write_text(f"{name} of step {step}")
    if done:
        (folder / "synset.arrow").write_text("result")
    rows = [[index, index, 0.5, 0.5, None, 0.0, None] for index in range(1, reports + 1)]
    write_document(folder / "reports.json", {"marks": [[step, 1.0]], "reports": rows})
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """Makes a checkpoint of a run in the trial's folder."""

    def make(number, step, **options):
        run = write_run(tmp_path / f"run{number}", step, step // 10, **options)
        target = tmp_path / "trial" / f"checkpoint_{number:06d}"
        target.mkdir(parents=True)
        export_checkpoint(run, target)
        return target

    return make


@pytest.fixture
def trial(tmp_path):
    return TrialStore(LocalFileSystem(), str(tmp_path / "trial"))


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_is_restored_from_the_last_complete_checkpoint(trial, checkpoint, tmp_path):
    assert trial.newest() is None
    checkpoint(0, 10)
    whole, half = checkpoint(1, 20, probe=True), checkpoint(2, 30)
    (half / "checkpoint" / "state.arrow").write_text("hal")  # its worker was killed
    here = tmp_path / "here"
    trial.restore(here)
    assert files(here) == {name: data for name, data in files(whole).items() if name != INDEX}
    write_run(here, 25, 2)
    before = files(here)
    trial.restore(here)
    assert files(here) == before, "a run that is further stays"
    shutil.rmtree(here / "checkpoint")
    (here / "config.yaml").unlink()
    trial.restore(here)
    assert (here / "checkpoint" / "state.arrow").read_text() == "checkpoint/state.arrow of step 20"


def test_the_last_checkpoint_is_taken_though_it_is_of_fewer_steps(trial, checkpoint):
    """A trial of a population goes on from another one's checkpoint, which may be of an earlier step."""
    checkpoint(0, 20)
    checkpoint(1, 10)
    assert trial.newest().name == "checkpoint_000001"


def test_a_result_is_further_than_its_last_report(trial, checkpoint, tmp_path):
    write_run(tmp_path / "here", 10, 1)
    checkpoint(0, 10, done=True)
    trial.restore(tmp_path / "here")
    assert (tmp_path / "here" / "synset.arrow").read_text() == "result"


def test_checkpoints_are_promoted_and_a_kill_in_between_loses_nothing(trial, checkpoint, tmp_path, monkeypatch):
    checkpoint(0, 10)
    newest = files(checkpoint(7, 20, probe=True))
    place, moves = tmp_path / "trial", []

    class Killed(LocalFileSystem):
        def copy_file(self, source, target):
            if len(moves) == 3:
                raise KeyboardInterrupt
            moves.append(source)
            super().copy_file(source, target)

    with pytest.raises(KeyboardInterrupt):
        TrialStore(Killed(), trial.path).promote(here=True)
    assert trial.newest().progress == (20, 2, False)
    trial.promote(here=True)
    assert files(place) == newest
    assert progress_of(place) == (20, 2, False)
    trial.promote(here=True)
    assert files(place) == newest


def test_a_promoted_run_goes_once_a_whole_checkpoint_has_followed_it(trial, checkpoint, tmp_path):
    place = tmp_path / "trial"
    checkpoint(0, 10, probe=True)
    trial.promote(here=False)
    (place / "events.out.tfevents.1").write_text("of Ray Tune")
    before = files(place)
    half = checkpoint(0, 20)
    (half / "best.arrow").unlink()  # its worker was killed
    assert trial.newest().progress == (10, 1, False), "files of an older copy may have the same size"
    trial.settle()
    run = {f"checkpoint_000000/{name}": data for name, data in before.items() if not name.startswith("events")}
    assert files(place) == run | {"events.out.tfevents.1": b"of Ray Tune"}
    trial.promote(here=False)
    whole = checkpoint(0, 20)
    assert before.items() <= files(place).items()
    trial.settle()
    assert {path.name for path in place.iterdir() if path.is_file()} == {"events.out.tfevents.1"}
    assert trial.newest().progress == (20, 2, False)
    assert files(whole)["checkpoint/state.arrow"] == b"checkpoint/state.arrow of step 20"


def test_a_promoted_run_that_no_checkpoint_follows_becomes_one_again(trial, checkpoint, tmp_path):
    """Its trial had ended, and its driver was killed before it knew."""
    before = files(checkpoint(3, 20, done=True))
    trial.promote(here=False)
    assert trial.newest().name == ""
    for _ in range(2):
        trial.settle()
        assert files(tmp_path / "trial") == {f"checkpoint_000000/{name}": data for name, data in before.items()}


@pytest.mark.parametrize("done", [1, 3, 8])
def test_a_kill_while_a_run_is_settled_loses_nothing(trial, checkpoint, tmp_path, done):
    before, steps = files(checkpoint(0, 20, done=True)), []
    trial.promote(here=False)

    class Killed(LocalFileSystem):
        def step(self):
            steps.append(0)
            if len(steps) == done:
                raise KeyboardInterrupt

        def copy_file(self, source, target):
            self.step()
            super().copy_file(source, target)

        def delete_file(self, path):
            self.step()
            super().delete_file(path)

    with pytest.raises(KeyboardInterrupt):
        TrialStore(Killed(), trial.path).settle()
    assert trial.newest().progress == (20, 2, True)
    trial.settle()
    assert files(tmp_path / "trial" / "checkpoint_000000") == before


def test_a_run_in_the_folder_itself_that_is_further_than_its_checkpoint_stays(trial, checkpoint, tmp_path):
    checkpoint(0, 10)
    write_run(tmp_path / "trial", 15, 1)
    trial.promote(here=True)
    assert progress_of(tmp_path / "trial") == (15, 1, False)
    assert not [*(tmp_path / "trial").glob("checkpoint_*")]
    assert (tmp_path / "trial" / "checkpoint" / "state.arrow").read_text() == "checkpoint/state.arrow of step 15"


def test_a_run_of_an_older_version_is_restored_without_an_index(trial, tmp_path):
    write_run(tmp_path / "trial", 15, 1)
    (tmp_path / "trial" / "events.out.tfevents.1").write_text("Tune's own")
    trial.restore(tmp_path / "here")
    assert progress_of(tmp_path / "here") == (15, 1, False)
    assert not [*(tmp_path / "here").glob("events*")]
