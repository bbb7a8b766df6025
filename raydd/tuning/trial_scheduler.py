"""Which trial of a search runs next, and what is recorded of its reports, whatever executes the trials."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raydd.figures.trial_tables import settings_text
from raydd.io.console import Pace
from raydd.tuning.population import perturb
from raydd.tuning.results import State
from raydd.tuning.study import Proposal, Study

RECORDED = ("accuracy", "seconds", "step", "loss", "memory_mb")
"""The values of a trial's report that the study stores."""


@dataclass
class TrialProgress:
    """A trial's row in the progress table."""

    number: int
    values: Mapping[str, Any]
    steps: int
    step: int = 0
    accuracy: float | None = None  # the best on the validation split so far
    state: State | str = "running"


class SearchProgress(NamedTuple):
    """The progress of a search."""

    rows: tuple[TrialProgress, ...]  # since the search was started or resumed
    done: int  # those of earlier calls included
    total: int
    seconds_left: float | None
    note: str = ""


@dataclass
class TrialScheduler:
    """Proposes trials, unfinished ones first, records their reports, and decides which stop early."""

    study: Study
    total: int
    show: Callable[[SearchProgress], None]
    rows: dict[int, TrialProgress] = field(default_factory=dict)
    record: Callable[[bool], None] = lambda urgent: None  # stores the journal; what is not urgent may wait

    def __post_init__(self) -> None:
        self._waiting = self.study.unfinished()
        self._unfinished = len(self._waiting)
        self._before = len(self.study) - self._unfinished
        self._pace = Pace()

    @property
    def left(self) -> int:
        """The number of trials to run or to finish."""
        return max(self._unfinished, self.total - self._before)

    def next(self, ask: Callable[[], dict[str, Any] | None] | None = None) -> Proposal | None:
        """Return a trial to run; None when none is left. ``ask`` returns the values of a new one, see `Study`."""
        if self._waiting:
            proposal = self._waiting.pop(0)
        elif len(self.study) < self.total and (new := self.study.propose(ask)) is not None:
            proposal = new
            self.record(True)
        else:
            return None
        steps = self.study.space.config(proposal.values).steps
        self.rows[proposal.number] = TrialProgress(proposal.number, proposal.values, steps)
        return proposal

    def remaining(self) -> list[Proposal]:
        """Return all trials that are left."""
        return list(iter(self.next, None))

    def report(self, number: int, report: Mapping[str, Any]) -> bool:
        """Record a trial's report; return True if the trial must stop."""
        row = self.rows[number]
        row.step, row.accuracy = int(report["step"]), float(report["accuracy"])
        metrics = _metrics(report)
        stop = self.study.report(number, int(report["index"]), metrics)
        if stop:
            self._prune(number, metrics)
        else:
            self.record(False)
            self.notify("")
        return stop

    def stop(self, number: int, report: Mapping[str, Any]) -> None:
        """Record that another scheduler stops a trial; at its last report it is complete."""
        if self.rows[number].step >= self.rows[number].steps:
            self.complete(number, report)
        else:
            self._prune(number, _metrics(report))

    def _prune(self, number: int, metrics: Mapping[str, float]) -> None:
        row = self.rows[number]
        self.study.prune(number, metrics)
        self._end(number, f"trial {number}: stopped early at step {row.step} with {100 * (row.accuracy or 0.0):.1f} %")

    def complete(self, number: int, report: Mapping[str, Any]) -> None:
        """Record that a trial ran to its end or reported a failure; ignore one that was stopped."""
        if self.rows[number].state != "running":
            return
        if reason := report.get("failed"):
            self.fail(number, str(reason))
            return
        self.study.complete(number, _metrics(report))
        self._end(number, f"trial {number}: {100 * float(report['accuracy']):.1f} % on validation images")

    def take_over(self, number: int, donor: int, report: Mapping[str, Any]) -> dict[str, Any]:
        """Record that a trial continues from another trial's checkpoint; return its new settings."""
        row, before = self.rows[number], self.rows[donor].values
        values = perturb(self.study.space, before, "perturb", number, len(self.study.changes(number)) + 1)
        self.study.change(number, values, _metrics(report))
        self.record(True)
        row.values, row.step, row.accuracy = values, int(report["step"]), float(report["accuracy"])
        changed = settings_text({key: value for key, value in values.items() if value != before.get(key)})
        with_what = changed or "the same settings"
        self.notify(f"trial {number}: continues from trial {donor} at step {row.step} with {with_what}")
        return values

    def fail(self, number: int, reason: str) -> None:
        """Record that a trial cannot continue."""
        self.study.fail(number, reason)
        self._end(number, f"trial {number} failed: {reason}")

    def notify(self, note: str) -> None:
        """Show the progress, with a line for the user unless it is empty."""
        ended = [row for row in self.rows.values() if row.state != "running"]
        work = len(ended) + sum(row.step / max(1, row.steps) for row in self.rows.values() if row.state == "running")
        left = self._pace.left(work, self.left)
        self.show(SearchProgress(tuple(self.rows.values()), self._before + len(ended), self.total, left, note))

    def _end(self, number: int, note: str) -> None:
        self.record(True)
        self.rows[number].state = self.study.record(number).state
        self.notify(note)


def _metrics(report: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(report[name]) for name in RECORDED}
