"""What is done next in a search and what is known of it, whoever runs the trials. Knows nothing of Ray."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raydd.figures.trial_tables import settings_text
from raydd.io.console import Pace
from raydd.tuning.population import perturb
from raydd.tuning.results import State
from raydd.tuning.study import Ask, Search

NOTED = ("accuracy", "seconds", "step", "loss", "memory_mb")
"""What the study keeps of a trial's reports."""


@dataclass
class Row:
    """A trial as a person watches it.

    Attributes:
        number: Its place in the search.
        values: Its settings.
        steps: Outer steps it has to take.
        step: Outer steps it has reported.
        accuracy: The best on the validation split so far; None before the first report.
        state: running while it is in hand.
    """

    number: int
    values: Mapping[str, Any]
    steps: int
    step: int = 0
    accuracy: float | None = None
    state: State | str = "running"


class Status(NamedTuple):
    """Where a search stands.

    Attributes:
        rows: The trials that were in hand since the search was started or resumed.
        done: Trials that are finished, earlier ones included.
        total: Trials wanted.
        seconds_left: An estimate; None before one means something.
        note: Something worth a line, or empty.
    """

    rows: tuple[Row, ...]
    done: int
    total: int
    seconds_left: float | None
    note: str = ""


@dataclass
class Desk:
    """Hands out trials, those left unfinished first; takes their reports; decides who stops.

    Args:
        search: The study.
        total: Trials that the search shall have in the end.
        show: Called whenever something changed.
    """

    search: Search
    total: int
    show: Callable[[Status], None]
    rows: dict[int, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._waiting = self.search.unfinished()
        self._unfinished = len(self._waiting)
        self._before = len(self.search) - self._unfinished
        self._pace = Pace()

    @property
    def left(self) -> int:
        """Trials that are still to be run or finished."""
        return max(self._unfinished, self.total - self._before)

    def next(self) -> Ask | None:
        """A trial to run; None when there is none left."""
        if self._waiting:
            ask = self._waiting.pop(0)
        elif len(self.search) < self.total and (new := self.search.ask()) is not None:
            ask = new
        else:
            return None
        self.rows[ask.number] = Row(ask.number, ask.values, self.search.space.config(ask.values).steps)
        return ask

    def rest(self) -> list[Ask]:
        """All trials that are left."""
        return list(iter(self.next, None))

    def result(self, number: int, report: Mapping[str, Any]) -> bool:
        """Take a trial's report; True if it shall stop."""
        row = self.rows[number]
        row.step, row.accuracy = int(report["step"]), float(report["accuracy"])
        metrics = {name: float(report[name]) for name in NOTED}
        stop = self.search.report(number, int(report["index"]), metrics)
        if stop:
            self.search.prune(number, metrics)
            self._end(number, f"trial {number}: stopped early at step {row.step} with {100 * row.accuracy:.1f} %")
        else:
            self._tell("")
        return stop

    def complete(self, number: int, report: Mapping[str, Any]) -> None:
        """A trial ran to its end, or told why it cannot; one that was stopped has ended already."""
        if self.rows[number].state != "running":
            return
        if reason := report.get("failed"):
            self.fail(number, str(reason))
            return
        self.search.complete(number, {name: float(report[name]) for name in NOTED})
        self._end(number, f"trial {number}: {100 * float(report['accuracy']):.1f} % on validation images")

    def taken(self, number: int) -> int:
        """How often a trial has taken over another's set."""
        return len(self.search.changes(number))

    def take_over(self, number: int, donor: int, report: Mapping[str, Any]) -> dict[str, Any]:
        """A trial goes on from another's report.

        Returns:
            With what settings: the other's, changed.
        """
        row, before = self.rows[number], self.rows[donor].values
        values = perturb(self.search.space, before, "perturb", number, self.taken(number) + 1)
        self.search.change(number, values, {name: float(report[name]) for name in NOTED})
        row.values, row.step, row.accuracy = values, int(report["step"]), float(report["accuracy"])
        changed = settings_text({key: value for key, value in values.items() if value != before.get(key)})
        self._tell(f"trial {number}: goes on from trial {donor} at step {row.step} with {changed or 'its settings'}")
        return values

    def fail(self, number: int, reason: str) -> None:
        """A trial cannot go on."""
        self.search.fail(number, reason)
        self._end(number, f"trial {number} failed: {reason}")

    def note(self, text: str) -> None:
        """Something worth a line."""
        self._tell(text)

    def _end(self, number: int, note: str) -> None:
        self.rows[number].state = self.search.records()[number].state
        self._tell(note)

    def _tell(self, note: str) -> None:
        ended = [row for row in self.rows.values() if row.state != "running"]
        work = len(ended) + sum(row.step / max(1, row.steps) for row in self.rows.values() if row.state == "running")
        left = self._pace.left(work, self.left)
        self.show(Status(tuple(self.rows.values()), self._before + len(ended), self.total, left, note))
