"""The JSON documents of scores, checked when they are read: a damaged one is refused in one line.

`raydd evaluate --out`, searches and the quick start write them; docs/evaluation.md has their keys. Accuracies are
fractions.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from raydd.data.score_record import Comparison, Missing, RobustScore, Score, StepScore
from raydd.io.bounded_file import read_bytes
from raydd.io.document import Document, parse


class StepScores(Document):
    """The stored steps of a run, among which a paper's number was chosen on test."""

    of: str
    network: str
    step: int
    steps: tuple[StepScore, ...]


class Scored(Document):
    """A set that was scored: its name, and the sha256 of its file."""

    name: str
    digest: str | None = None


class Scores(Document):
    """The document of an evaluation."""

    scores: Annotated[tuple[Score, ...], Field(min_length=1)]
    comparisons: tuple[Comparison, ...] | None = None
    robust: tuple[RobustScore, ...] = ()
    missing: tuple[Missing, ...] = ()
    steps: tuple[StepScores, ...] = ()
    settings: dict[str, Any] = Field(default={})
    protocol: dict[str, Any] = Field(default={})
    commit: str | None = None
    sets: tuple[Scored, ...] = ()


def file_of(path: Path, name: str, analysis: str = "") -> Path | None:
    """Return the file of a document: the path, or a file of this name in it; None where there is none.

    A JSON file of any name counts whose key ``analysis`` has this value; scores have no such key.
    """
    if path.is_dir():
        return path / name if (path / name).is_file() else None
    if path.name == name or path.suffix != ".json" or not path.is_file():
        return path if path.name == name and path.is_file() else None
    try:
        tree = parse(read_bytes(path))
    except (ValueError, OSError):
        return None
    own = isinstance(tree, dict) and tree.get("analysis", "") == analysis and (analysis or "scores" in tree)
    return path if own else None


def document_file(path: Path, name: str, analysis: str = "") -> Path:
    """Return the file of a document, see `file_of`; a ValueError says that there is none."""
    if (file := file_of(path, name, analysis)) is None:
        raise ValueError(f"{path} has no {name}; give a folder that has one, or the file itself")
    return file
