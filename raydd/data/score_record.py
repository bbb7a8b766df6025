"""Records of scores, from the trainings to the report: one class for each kind, and its JSON form."""

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from raydd.io.document import Document, Finite, Fraction


class ScoreDocument(Document):
    """A record with a JSON form."""

    def to_document(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)


class StepScore(ScoreDocument):
    """The score of one kept outer step of a run."""

    step: int
    mean: Fraction
    std: Finite | None  # its standard deviation (n - 1); None for one network
    values: tuple[Fraction, ...] = ()  # one accuracy a network


class Score(ScoreDocument):
    """The accuracy of networks that were trained on one set: one row of a table, on one network."""

    name: str
    kind: str  # `distilled`, a name of `raydd.selection.coresets.CORESETS` (`-mosaic` for mosaics), or `whole`
    dataset: str  # the data set that the networks are tested on
    network: str
    protocol: str
    selection: str  # how the set was chosen: `honest` (never on test images), `paper` (on them), or `unknown`
    ipc: Finite | None = None  # stored images per class; None for the whole data set
    networks: int
    mean: Fraction
    std: Finite | None  # standard deviation (n - 1); None for one network
    values: tuple[Fraction, ...]  # one accuracy a network
    seconds: Finite | None = None  # mean duration of a training
    commits: tuple[str, ...] = ()  # commits of the source that trained the networks
    split: str = "test"  # the split that accuracy is measured on
    augment: bool = True  # whether training images were augmented
    part: str = ""  # the training that this is for a robust score, a name of `raydd.evaluation.robust.TRAININGS`
    of: str = ""  # the row that this one belongs to
    lrs: tuple[Finite, ...] = ()  # learning rates of which the best on the validation split was taken
    requested: bool = Field(default=False, alias="asked")  # the key in files
    labels: str = ""  # label kind of the set; for robust scores only
    seeds: tuple[int, ...] = ()  # seeds of the networks; for robust scores, and where some are missing
    step: int | None = None  # the outer step with the highest mean; for the best of kept steps only
    steps: tuple[StepScore, ...] = ()  # scores of all kept steps; they are a list of their own in JSON

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


class Missing(ScoreDocument):
    """A training that failed, so that its score lacks it."""

    name: str  # name of the score's row
    network: str
    seed: int
    reason: str  # in one line
    requested: bool = Field(default=False, alias="asked")  # whether the row's set was given; the key in files

    @property
    def line(self) -> str:
        """The training and the reason, in words."""
        return f"{self.name}, on {self.network}, seed {self.seed}: {self.reason}"


class Comparison(ScoreDocument):
    """A test of the difference between two rows on one network."""

    network: str
    first: str
    second: str
    difference: Finite  # mean accuracy of the first less that of the second
    low: Finite | None  # lower end of the 95 % interval of the difference; None without a test
    high: Finite | None
    p: Fraction | None  # two-sided p value; None without a test
    method: str  # `welch` or `bootstrap`
    freedom: Finite | None = None  # degrees of freedom of the t distribution; None for a bootstrap and without a test
    counts: tuple[int, int]  # networks of the first and of the second
    best_baseline: bool = False  # whether the second is the best baseline of the first's size
    p_adjusted: Fraction | None  # `p` adjusted by Holm's method for all tests of the data set, network and protocol


class RobustScore(ScoreDocument):
    """A robust score of a set on one network."""

    of: str  # name of the set's row
    network: str
    score: str  # a name of `raydd.evaluation.robust.SCORES`
    mean: Finite  # the mean of `values`, or the score of the mean accuracies
    std: Finite | None  # standard deviation over networks; None where a training has one seed only
    values: tuple[Finite, ...] = ()  # one score a seed; empty where the trainings have different seeds
    how: str  # `by seed` or `of means`
    weight: Finite  # the score's weight in [0, 1]
    parts: dict[str, Finite] = Field(default={})  # the mean accuracy of each training in the score's formula


def table_rows(scores: Iterable[Score]) -> list[Score]:
    """Return the rows of a table of scores, without trainings that only a robust score needs."""
    return [score for score in scores if score.in_table]
