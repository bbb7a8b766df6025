"""Trainings and their results, as plain data that loads no PyTorch."""

from typing import NamedTuple


class Job(NamedTuple):
    """One training: the index of a row, a network and a seed."""

    row: int
    network: str
    seed: int


class Outcome(NamedTuple):
    """The result of a training: accuracy in [0, 1] and duration.

    ``curve`` has epoch and accuracy at every rung, ``stopped`` tells whether the training was stopped at the last of
    them, and ``commit`` is that of the source; None where unknown.
    """

    value: float
    seconds: float
    curve: tuple[tuple[int, float], ...] = ()
    stopped: bool = False
    commit: str | None = None


class Failure(NamedTuple):
    """A training without a result, and the reason in one line. It is never cached, so the next call trains it again."""

    reason: str


Result = Outcome | Failure
