"""The files with which a trial of a population goes on, from another trial's checkpoint or from its own."""

import shutil
from pathlib import Path

from raydd.data.synset import CHECKPOINT
from raydd.run.claim import RESULTS
from raydd.tuning.trial import REPORTS

INHERITED = "inherited"
_FILES = (CHECKPOINT, "best.arrow", REPORTS)
_RUN_FILES = (*_FILES, *RESULTS, "config.yaml", "probe.jsonl")


def export_checkpoint(folder: Path, to: Path) -> None:
    """Copy the state, the best set and the reports of a trial's folder into an existing folder."""
    for file in (folder / name for name in _FILES):
        if file.exists():
            shutil.copyfile(file, to / file.name)


def inherit_checkpoint(folder: Path, checkpoint: Path | None) -> Path | None:
    """Replace a trial's run by a checkpoint that the trial then goes on from, with settings of its own.

    The copy is complete before the old run is removed, so that a kill at any time leaves one of the two.
    Without a checkpoint, use the trial's own state, else the copy that an earlier call left. Return the copy, or None
    where the trial starts from nothing.
    """
    copy, fresh = folder / INHERITED, folder / f"{INHERITED}.new"
    if checkpoint is not None or (folder / CHECKPOINT).exists():
        shutil.rmtree(fresh, ignore_errors=True)
        if checkpoint is None:
            fresh.mkdir()
            export_checkpoint(folder, fresh)
        else:
            shutil.copytree(checkpoint, fresh)
        shutil.rmtree(copy, ignore_errors=True)
        fresh.rename(copy)
    if not copy.exists():
        return None
    for path in (folder / name for name in _RUN_FILES):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return copy


def discard_inherited(folder: Path) -> None:
    """Remove the copy of `inherit_checkpoint` once the trial has a checkpoint of its own."""
    shutil.rmtree(folder / INHERITED, ignore_errors=True)
