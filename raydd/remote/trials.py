"""What every kind of search by Ray Tune shares: trial events sent to our scheduler, and reports sent by workers."""

import math
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from raydd.io.memory import keep_memory
from raydd.plugins import origin_of
from raydd.remote.demand import Demand, worker_device
from raydd.tuning.trial import Report, SearchContext
from raydd.tuning.trial_scheduler import TrialScheduler

RESTARTS = 3
FAILURES = (ValueError, RuntimeError, FloatingPointError, MemoryError)
"""Errors that a restart would repeat: the trial has failed, and the search continues.

Any other error, such as a fault of a disk or of a GPU, and a dead worker are not caused by the trial: Tune restarts it
in a new process.
"""


NO_METRICS = {"index": 0, "accuracy": math.nan, "now": math.nan}
"""Tune refuses a report without the metrics that its searcher and scheduler use."""


class Strategy(NamedTuple):
    """How Tune gets trials, runs them and decides about them."""

    context: SearchContext
    trainable: Callable[..., None]
    scheduler: "TrialEvents"
    searcher: Searcher | None  # None where `params` lists all trials
    params: Mapping[str, Any]
    samples: int


class ByReference:
    """An object that Tune neither copies with its settings nor stores with its state."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "ByReference":
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return ByReference, ()


class TrialEvents(ByReference):
    """The part of a Tune scheduler that sends every report and every end of a trial to our `TrialScheduler`."""

    def __init__(self, trials: TrialScheduler, **settings: Any) -> None:
        super().__init__(**settings)
        self._trials = trials
        self.unusable = ""  # why the cluster cannot run trials

    def stops(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        """Record a report and return whether the trial must stop."""
        return int(result["index"]) > 0 and self._trials.report(number_of(trial), result)

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Record that a trial finished, was stopped, or reported a failure. A node's fault is not a trial's."""
        if int(result["index"]) > 0 or "failed" in result:
            self._trials.complete(number_of(trial), result)

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        """Record a dead worker: fail the trial after the last restart, or note that Tune dropped the trial."""
        number = number_of(trial)
        if not trial.should_recover():
            reason = str(trial.get_error() or "its worker died").strip().splitlines()[-1]
            self._trials.fail(number, f"{reason} ({RESTARTS} restarts); check that the machine has enough memory")
        elif trial.status != Trial.ERROR:  # Tune sets ERROR while it puts the trial back into the queue
            self._trials.notify(f"trial {number}: its worker died; continue it with --resume")


class UnusableNode(ByReference, tune.Stopper):  # type: ignore[misc]
    """A Tune stopper that ends the search when a worker cannot use the GPU that Ray gave it, or no node has room."""

    def __init__(self, events: TrialEvents) -> None:
        self._events = events

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Return whether this trial must stop."""
        self._events.unusable = self._events.unusable or str(result.get("unusable", ""))
        return bool(result.get("unusable"))

    def stop_all(self) -> bool:
        """Return whether all trials must stop."""
        return bool(self._events.unusable)


def number_of(trial: Trial) -> int:
    """Return the trial's number in the search."""
    return int(trial.config["trial"])


Reports = Callable[[SearchContext], Iterable[tuple[Report, tune.Checkpoint | None]]]


def send_reports(reports: Reports, context: SearchContext, demand: Demand) -> None:
    """Run a trial in a worker, on its own device, and send its reports, or the reason why it failed."""
    keep_memory()
    try:
        device = worker_device(demand)
    except RuntimeError as error:
        tune.report({"unusable": str(error)} | NO_METRICS)
        return
    try:
        for report, checkpoint in reports(context._replace(device=device.type)):
            tune.report(report._asdict(), checkpoint=checkpoint)
    except FAILURES as error:
        if "CUDA error" in str(error):  # this process can no longer use its GPU
            raise
        if os.environ.get("RAYDD_TRACEBACK"):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        reason = f"{plugin}: {reason}" if (plugin := origin_of(error)) else reason
        tune.report({"failed": reason} | NO_METRICS)
