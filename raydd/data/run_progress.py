"""How far the run of a synthetic set is, by the files of its folder and by the set itself."""

from pathlib import Path

from raydd.data.synset import SyntheticSet
from raydd.io.bounded_file import read_text
from raydd.io.document import Document, Whole, remove_text_checksum
from raydd.io.safe_yaml import parse_yaml
from raydd.io.tensor_file import load_checked

CHECKPOINT = Path("checkpoint") / "state.arrow"
UNFINISHED = "unfinished"
"""Key of a set's provenance: the progress of its run, such as ``step 40 of 150``."""


class _Plain(Document):
    step: Whole


class _Checkpoint(Document):
    plain: _Plain


def checkpoint_step(folder: Path) -> int | None:
    """Return the outer step of a run folder's checkpoint, or None; refuse a damaged one."""
    path = folder / CHECKPOINT
    return load_checked(path, _Checkpoint)[1].plain.step if path.is_file() else None


def progress_of(folder: Path) -> str | None:
    """Return the progress of an unfinished run, such as ``step 40 of 150``; None for other folders."""
    config = folder / "config.yaml"
    if not config.is_file() or (folder / "synset.arrow").exists():
        return None
    try:
        steps = parse_yaml(remove_text_checksum(read_text(config)))["steps"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return f"step {checkpoint_step(folder) or 0} of {steps}"


def is_unfinished(synset: SyntheticSet) -> bool:
    """Return whether a set is of an unfinished run: made by ``raydd finish``."""
    return UNFINISHED in synset.provenance
