"""JSON documents that a page is made of, checked when they are read: what is damaged is refused in one line.

Those of scores are here, as `raydd evaluate --out`, searches and the quick start write them; see docs/evaluation.md.

Shapes: none; accuracies are fractions.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from raydd.data.score_record import (
    Comparison as Comparison,
    RobustScore as RobustScore,
    Score as Score,
    StepScore as StepScore,
)
from raydd.io.bounded_file import read_bytes
from raydd.io.document import (
    Document as Document,
    Finite as Finite,
    Fraction as Fraction,
    parse,
    read_document as read_document,
)


class Kept(Document):
    """The kept steps of a run, among which a paper's number was chosen on test."""

    of: str
    network: str
    step: int
    steps: tuple[StepScore, ...]


class Scored(Document):
    """A set that was scored: what it is called, and the sha256 of its file."""

    name: str
    digest: str | None = None


class Scores(Document):
    """What an evaluation came to."""

    scores: Annotated[tuple[Score, ...], Field(min_length=1)]
    comparisons: tuple[Comparison, ...] | None = None
    robust: tuple[RobustScore, ...] = ()
    steps: tuple[Kept, ...] = ()
    settings: dict[str, Any] = Field(default={})
    protocol: dict[str, Any] = Field(default={})
    commit: str | None = None
    sets: tuple[Scored, ...] = ()


def file_of(path: Path, name: str, analysis: str = "") -> Path | None:
    """Where a document is: the file of this name in a folder or the path itself, or a JSON file of this analysis.

    Args:
        path: A folder or a file.
        name: What the file is usually called.
        analysis: What the file says it is; empty for scores, which say nothing.
    """
    if path.is_dir():
        return path / name if (path / name).is_file() else None
    if path.name == name or path.suffix != ".json" or not path.is_file():
        return path if path.name == name and path.is_file() else None
    try:
        found = parse(read_bytes(path))
    except (ValueError, OSError):
        return None
    own = isinstance(found, dict) and found.get("analysis", "") == analysis and (analysis or "scores" in found)
    return path if own else None


def found_in(path: Path, name: str, analysis: str = "") -> Path:
    """The same, where it must be there.

    Raises:
        ValueError: It is not.
    """
    if (file := file_of(path, name, analysis)) is None:
        raise ValueError(f"{path} has no {name}; give a folder that has one, or the file itself")
    return file
