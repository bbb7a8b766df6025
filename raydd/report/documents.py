"""JSON documents that a page is made of, checked when they are read: what is damaged is refused in one line.

Those of scores are here, as `raydd evaluate --out`, searches and the quick start write them; see docs/evaluation.md.

Shapes: none; accuracies are fractions.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from raydd.io.bounded_file import read_bytes
from raydd.io.document import (
    Document as Document,
    Finite as Finite,
    Fraction as Fraction,
    parse,
    read_document as read_document,
)


class Score(Document):
    """A row and network of an evaluation."""

    name: str
    kind: str
    dataset: str
    network: str
    protocol: str
    selection: str
    ipc: Finite | None = None
    networks: int
    mean: Fraction
    std: Finite | None
    values: tuple[Fraction, ...]
    seconds: Finite | None = None
    commits: tuple[str, ...] = ()
    asked: bool = False
    part: str = ""
    of: str = ""

    @property
    def alone(self) -> bool:
        """Whether it is no row that only a robust score is made of."""
        return not self.part or self.of == self.name

    @property
    def what(self) -> str:
        """What the networks were trained on, in words."""
        words = {"distilled": "synthetic images", "whole": "all real images"}
        return words.get(self.kind, f"real images, {self.kind}")

    @property
    def spread(self) -> float | None:
        """The standard deviation; a single network has none."""
        return self.std if self.networks > 1 else None


class Comparison(Document):
    """A test of `raydd.evaluation.significance.compare_scores`."""

    network: str
    first: str
    second: str
    difference: Finite
    low: Finite | None
    high: Finite | None
    p: Fraction | None
    p_adjusted: Fraction | None
    method: str
    counts: tuple[int, int]
    best_baseline: bool = False


class Robust(Document):
    """A robust score of a set and network."""

    of: str
    network: str
    score: str
    mean: Finite
    std: Finite | None
    values: tuple[Finite, ...] = ()
    how: str
    weight: Finite


class Step(Document):
    """The score of a kept step."""

    step: int
    mean: Fraction
    std: Finite | None


class Kept(Document):
    """The kept steps of a run, among which a paper's number was chosen on test."""

    of: str
    network: str
    step: int
    steps: tuple[Step, ...]


class Scored(Document):
    """A set that was scored: what it is called, and the sha256 of its file."""

    name: str
    digest: str | None = None


class Scores(Document):
    """What an evaluation came to."""

    scores: Annotated[tuple[Score, ...], Field(min_length=1)]
    comparisons: tuple[Comparison, ...] | None = None
    robust: tuple[Robust, ...] = ()
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
