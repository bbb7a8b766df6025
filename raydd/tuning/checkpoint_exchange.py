"""What a trial hands over to another in population based training: files, and never half of them.

Below a trial's folder, ``kept/`` holds its latest scored states for others to go on from, and ``taken-3/`` what it
took over the third time; ``taken`` says which of these it has begun. Files are links, so that none is there twice.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from raydd.distillation.checkpoint import load_checkpoint
from raydd.io.bounded_file import read_text
from raydd.io.files import write_atomic
from raydd.tuning.trial import REPORTS

STATE = Path("checkpoint") / "state.arrow"
BEST = Path("best.arrow")
OWN = (
    *("config.yaml", "metrics.jsonl", "memory.jsonl", "probe.jsonl", "checkpoint", "kept"),
    *("best.arrow", "last.arrow", "synset.arrow", "synset.png", REPORTS),
)
"""What a trial itself writes into its folder; beside it are Tune's files."""


def keep(folder: Path, taken: int, index: int, most: int) -> Path:
    """Keep a trial's state for others, right after a score that a checkpoint was written with.

    Args:
        folder: The trial's.
        taken: How often it has taken over another's state.
        index: Which score it is.
        most: So many of the latest are kept.

    Returns:
        Where ``state.arrow``, ``best.arrow`` and ``reports.json`` are kept.
    """
    kept = folder / "kept" / f"{taken}-{index}"
    _link((folder / name for name in (STATE, BEST, REPORTS)), kept)
    for old in sorted(kept.parent.glob("*-*"), key=_age)[:-most]:
        shutil.rmtree(old)
    return kept


def _age(kept: Path) -> tuple[int, int]:
    taken, _, index = kept.name.removesuffix(".new").partition("-")
    return int(taken), int(index)


def hand_over(kept: Path, folder: Path, taken: int) -> None:
    """Give a trial what another has kept; it stays where it is, until the trial begins with it.

    Args:
        kept: Of the other trial.
        folder: The trial's.
        taken: Which take-over of the trial's this is, from 1.
    """
    _link(sorted(kept.iterdir()), folder / f"taken-{taken}")


def begin(folder: Path, taken: int) -> Path | None:
    """Make room for what a trial has taken over, once; its own run up to here is removed.

    Args:
        folder: The trial's.
        taken: How often it has taken over another's state.

    Returns:
        What it goes on from unless it has a checkpoint since; None if nothing was taken over.
    """
    if not taken:
        return None
    source, mark = folder / f"taken-{taken}", folder / "taken"
    if not mark.exists() or read_text(mark) != str(taken):
        for path in (*(folder / name for name in OWN), *folder.glob("taken-*")):
            if path != source:
                _remove(path)
        write_atomic(mark, str(taken).encode())
    return source


def clear(folder: Path) -> None:
    """Remove what a trial kept and took over, once it has ended."""
    for path in (folder / "kept", folder / "taken", *folder.glob("taken-*")):
        _remove(path)


def told(folder: Path, inherited: Path | None) -> int:
    """How many scores a trial begins with: of its own checkpoint, else of the one that it takes over."""
    places = [folder / STATE, *([inherited / STATE.name] if inherited is not None else [])]
    path = next((path for path in places if path.exists()), None)
    return 0 if path is None else len(load_checkpoint(path).log["history"])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(files: Iterable[Path], folder: Path) -> None:
    """Make a folder of these files' present contents, whole or not at all; nobody writes into files of ours."""
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file in files:
        try:
            os.link(file, fresh / file.name)
        except OSError:  # a file system without links
            shutil.copyfile(file, fresh / file.name)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
