"""The JSON documents of scores, checked when they are read: a damaged one is refused in one line.

`raydd evaluate --out`, searches and the quick start write them; docs/evaluation.md has their keys. Accuracies are
fractions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field

from raydd.data.score_record import Comparison, Missing, RobustScore, Score, StepScore
from raydd.io.bounded_file import read_bytes
from raydd.io.document import Document, parse, read_document


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


D = TypeVar("D")


@dataclass(frozen=True)
class DocumentFile(Generic[D]):
    """A kind of document on the disk."""

    name: str  # the name of its file in a folder
    analysis: str  # its key ``analysis``; "" for scores, which have no such key
    model: type[D]
    remedy: str  # what to do about a damaged file

    def find(self, path: Path) -> Path | None:
        """Return the path, or the file of this kind in it; None where there is none.

        A JSON file of another name counts if its content says that it is of this kind.
        """
        file = path / self.name if path.is_dir() else path
        if file.suffix != ".json" or not file.is_file():
            return None
        if file.name == self.name:
            return file
        try:
            tree = parse(read_bytes(file))
        except (ValueError, OSError):
            return None
        own = isinstance(tree, dict) and tree.get("analysis", "") == self.analysis
        return file if own and (self.analysis or "scores" in tree) else None

    def read(self, path: Path) -> D:
        """Read the file of this kind that `find` returns."""
        if (file := self.find(path)) is None:
            raise ValueError(f"{path} has no {self.name}; give a folder that has one, or the file itself")
        return read_document(file, self.model, self.remedy)


SCORES = DocumentFile("scores.json", "", Scores, "`raydd evaluate SYNSET --out FILE` writes scores anew")
