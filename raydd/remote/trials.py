"""What all ways of running trials by Ray Tune have in common: the books that are kept, and what a worker sends."""

import math
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from raydd.io.memory import keep_memory
from raydd.tuning.trial import Report, Task
from raydd.tuning.trial_scheduler import Desk

RESTARTS = 3
FAILURES = (ValueError, RuntimeError, FloatingPointError, MemoryError)
"""What would happen again: the trial has failed, and the search goes on.

Anything else, such as a fault of a disk or of a GPU, and a dead worker are no fault of the trial: it is taken up again,
in a new process.
"""


class Way(NamedTuple):
    """How Tune comes by trials, runs them, and decides on them.

    Attributes:
        task: What all trials share.
        trainable: A trial in a worker, by Tune's settings of it and the ``task``.
        scheduler: Is told of every report, and decides.
        searcher: Is asked for trials; None where ``params`` names them all.
        params: Tune's parameter space.
        samples: How often a trial is drawn from that.
    """

    task: Task
    trainable: Callable[..., None]
    scheduler: TrialScheduler
    searcher: Searcher | None
    params: Mapping[str, Any]
    samples: int


class Shared:
    """Stays one object where Tune copies its settings, and is left out where it stores them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shared, ()


class Books(Shared):
    """The part of a scheduler that keeps the books: every report and every end goes to the desk."""

    def __init__(self, desk: Desk, **settings: Any) -> None:
        super().__init__(**settings)
        self._desk = desk

    def told(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        """Take a report; True if the trial shall stop."""
        return "failed" not in result and self._desk.result(number_of(trial), result)

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """It ran to its end, was stopped, or told why it cannot go on."""
        self._desk.complete(number_of(trial), result)

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        """Its worker died: once too often; or Tune starts it anew, or gives it up where it had not begun yet."""
        number = number_of(trial)
        if not trial.should_recover():
            reason = str(trial.get_error() or "its worker died").strip().splitlines()[-1]
            self._desk.fail(number, f"{reason} ({RESTARTS} restarts); is there memory enough?")
        elif trial.status != Trial.ERROR:  # so it is while Tune puts it back into the queue
            self._desk.note(f"trial {number}: its worker died; --resume goes on with the trial")


def number_of(trial: Trial) -> int:
    """The trial's place in the search."""
    return int(trial.config["trial"])


def send(reports: Iterable[tuple[Report, tune.Checkpoint | None]]) -> None:
    """Run a trial in a worker: send its reports, or why there are no more."""
    keep_memory()
    try:
        for report, checkpoint in reports:
            tune.report(report._asdict(), checkpoint=checkpoint)
    except FAILURES as error:
        if "CUDA error" in str(error):  # nothing that this process does on its GPU will work again
            raise
        if os.environ.get("RAYDD_TRACEBACK"):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        # Tune takes no report without the metrics that its searchers and schedulers go by.
        tune.report({"failed": reason, "index": 0, "accuracy": math.nan, "now": math.nan})
