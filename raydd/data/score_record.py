"""Records of scores, from the trainings to the report: one class for each kind, and its JSON form.

Shapes: none; accuracies are fractions.
"""

from collections.abc import Iterable
from typing import Any, Self

from pydantic import Field

from raydd.io.document import Document, Finite, Fraction, validate


class ScoreDocument(Document):
    """A record with a JSON form."""

    def to_document(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """Read a record from plain JSON values.

        Raises:
            ValueError: In one line: the key, and what is wrong there.
        """
        return validate(cls, document)


class StepScore(ScoreDocument):
    """The score of one kept outer step of a run.

    Attributes:
        step: The outer step.
        mean: Mean accuracy over the networks.
        std: Its standard deviation (n - 1); None for one network.
        values: One accuracy a network.
    """

    step: int
    mean: Fraction
    std: Finite | None
    values: tuple[Fraction, ...] = ()


class Score(ScoreDocument):
    """The accuracy of networks that were trained on one set: one row of a table, on one network.

    Attributes:
        name: The row's name.
        kind: ``distilled``, a name of `raydd.selection.coresets.CORESETS` (``-mosaic`` for mosaics), or ``whole``.
        dataset: The data set that the networks are tested on.
        network: The network's name.
        protocol: How the networks were trained.
        selection: How the set was chosen: ``honest`` (never on test images), ``paper`` (on them), or ``unknown``.
        ipc: Stored images per class; None for the whole data set.
        networks: How many networks were trained.
        mean: Mean accuracy.
        std: Standard deviation (n - 1); None for one network.
        values: One accuracy a network.
        seconds: Mean duration of a training.
        commits: Commits of the source that trained the networks.
        split: The split that accuracy is measured on.
        augment: Whether training images were augmented.
        part: The training that this is for a robust score, a name of `raydd.evaluation.robust.TRAININGS`.
        of: The row that this one belongs to.
        lrs: Learning rates of which the best on the validation split was taken.
        requested: Whether the user named this set.
        labels: Label kind of the set; for robust scores only.
        seeds: Seeds of the networks; for robust scores only.
        step: The outer step with the highest mean; for the best of kept steps only.
        steps: Scores of all kept steps; they are a list of their own in JSON.
    """

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
    split: str = "test"
    augment: bool = True
    part: str = ""
    of: str = ""
    lrs: tuple[Finite, ...] = ()
    requested: bool = Field(default=False, alias="asked")  # the key in files
    labels: str = ""
    seeds: tuple[int, ...] = ()
    step: int | None = None
    steps: tuple[StepScore, ...] = ()

    @property
    def in_table(self) -> bool:
        """Whether the row belongs in a table: it is not a training that only a robust score needs."""
        return not self.part or self.of == self.name

    @property
    def source(self) -> str:
        """What the networks were trained on, in words."""
        words = {"distilled": "synthetic images", "whole": "all real images"}
        return words.get(self.kind, f"real images, {self.kind}")

    @property
    def spread(self) -> float | None:
        """The standard deviation, which one network does not have."""
        return self.std if self.networks > 1 else None

    def to_document(self) -> dict[str, Any]:
        """Return the record as plain JSON values, without its steps and without unused optional fields."""
        tree, always = super().to_document(), {"ipc", "std", "seconds", "commits"}
        given = always | self.model_dump(by_alias=True, exclude={"steps"}, exclude_defaults=True).keys()
        return {key: value for key, value in tree.items() if key in given}


class Comparison(ScoreDocument):
    """A test of the difference between two rows on one network.

    Attributes:
        network: The network's name.
        first: Name of the first row.
        second: Name of the second row.
        difference: Mean accuracy of the first less that of the second.
        low: Lower end of the 95 % interval of the difference; None without a test.
        high: Its upper end.
        p: Two-sided p value; None without a test.
        method: ``welch`` or ``bootstrap``.
        freedom: Degrees of freedom of the t distribution; None for a bootstrap and without a test.
        counts: Networks of the first and of the second.
        best_baseline: Whether the second is the best baseline of the first's size.
        p_adjusted: ``p`` adjusted by Holm's method for all tests of the data set, network and protocol.
    """

    network: str
    first: str
    second: str
    difference: Finite
    low: Finite | None
    high: Finite | None
    p: Fraction | None
    method: str
    freedom: Finite | None = None
    counts: tuple[int, int]
    best_baseline: bool = False
    p_adjusted: Fraction | None


class RobustScore(ScoreDocument):
    """A robust score of a set on one network.

    Attributes:
        of: Name of the set's row.
        network: The network's name.
        score: A name of `raydd.evaluation.robust.SCORES`.
        mean: The mean of ``values``, or the score of the mean accuracies.
        std: Standard deviation over networks; None where a training has one seed only.
        values: One score a seed; empty where the trainings have different seeds.
        how: ``by seed`` or ``of means``.
        weight: The score's weight in [0, 1].
        parts: The mean accuracy of each training in the score's formula.
    """

    of: str
    network: str
    score: str
    mean: Finite
    std: Finite | None
    values: tuple[Finite, ...] = ()
    how: str
    weight: Finite
    parts: dict[str, Finite] = Field(default={})


def table_rows(scores: Iterable[Score]) -> list[Score]:
    """Return the rows of a table of scores, without trainings that only a robust score needs."""
    return [score for score in scores if score.in_table]
