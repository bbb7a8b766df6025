"""The demand of a search's trials: what one needs, how many are submitted at once, and notes while they wait."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.tune.experiment import Trial

from raydd.config.schema import DistillConfig
from raydd.remote.demand import WORKERS_PER_GPU, Demand, capacity, demand_for, node_shapes, plan
from raydd.remote.trials import ByReference, TrialEvents
from raydd.tuning.trial_scheduler import TrialScheduler

NOTE_SECONDS = 30.0


class Limits(NamedTuple):
    """What a run of trials may use."""

    concurrent: int | None = None  # None takes as many as the cluster has room for
    seconds: float | None = None  # after which trials are stopped where they are
    gpus: float | None = None  # per trial; None shares them evenly
    max_wait: float = math.inf  # minutes for which all trials may wait for a node


def trial_demand(config: DistillConfig, device: str, limits: Limits, trials: int) -> Demand:
    """Return what one trial needs; trials share the GPUs evenly, at most `WORKERS_PER_GPU` on one.

    Args:
        config: Settings of a trial.
        device: The user's ``auto``, ``cpu`` or ``cuda``.
        limits: The user's limits.
        trials: How many are left to run.

    Raises:
        ValueError: No kind of node has room for a trial.
    """
    wanted, shapes = min(limits.concurrent or trials, trials), node_shapes()
    threads = float(config.threads or 1)
    for sharing in range(1, WORKERS_PER_GPU + 1):
        try:
            demand = demand_for(
                device, cpus=threads, gpus=limits.gpus, default_gpus=1 / sharing, minutes=limits.max_wait
            )
        except ValueError as error:
            words = str(error).replace("a worker needs", "a trial needs").replace("lower threads or", "lower threads,")
            raise ValueError(words.replace("--gpus-per-worker", "--gpus-per-trial")) from None
        if not demand.gpus or limits.gpus is not None or capacity(demand, shapes) >= wanted:
            break
    return demand


class TrialPlan(NamedTuple):
    """How many trials are submitted at once, and what each of them needs."""

    workers: int
    demand: Demand
    helpers: int = 0  # actors that compute the rollouts of a trial, each with the same demand

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The bundles of a trial's placement group: the trial's own, and one for each helper."""
        return [self.demand.bundle] * (1 + self.helpers)


def trial_plan(config: DistillConfig, device: str, limits: Limits, trials: int, *, turns: bool) -> TrialPlan:
    """Return how many trials are submitted at once, and the demand of each.

    Where the cluster has room for more workers than trials, the rest computes the rollouts of trials. They are reserved
    with the trial, so that no trial waits for helpers that other trials hold.

    Trials that take ``turns`` are all submitted, so that only their CPUs limit how many run at once. Each then demands
    more CPUs than it uses, but not more than the largest node has.
    """
    demand = trial_demand(config, device, limits, trials)
    layout = TrialPlan(plan(demand, limits.concurrent, trials).workers, demand)
    if config.rollouts > 1 and not turns:
        room = capacity(demand, node_shapes()) // min(limits.concurrent or trials, trials)
        layout = layout._replace(helpers=int(max(0, min(config.rollouts, room - 1))))
    if turns and limits.concurrent is not None and layout.workers < trials:
        nodes = [shape.resources.get("CPU", 0.0) for shape in node_shapes() if shape.alive]
        cpus = max(demand.cpus, min(max(nodes, default=0.0), 1 + sum(nodes) // (layout.workers + 1)))
        layout = layout._replace(demand=demand._replace(cpus=cpus))
    return layout


class WaitingNotes(ByReference, tune.Callback):  # type: ignore[misc]
    """Notes for the user while trials wait for a node with room; ends a search that has waited for too long."""

    def __init__(self, trials: TrialScheduler, events: TrialEvents, demand: Demand, minutes: float = math.inf) -> None:
        self._trials, self._events, self._demand, self._minutes = trials, events, demand, minutes
        self._since = self._noted = time.monotonic()

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Note how long no trial has run, at most every `NOTE_SECONDS`."""
        now = time.monotonic()
        waiting = sum(trial.status == Trial.PENDING for trial in trials)
        if not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self._since = self._noted = now
        elif now - self._since > 60 * self._minutes:
            self._events.unusable = (
                f"no node has had {self._demand.words()} for a trial for {self._minutes:g} min: add a node, or end "
                "other work; --resume continues"
            )
        elif now - self._noted >= NOTE_SECONDS:
            self._noted, nodes = now, sum(node["Alive"] for node in ray.nodes())
            self._trials.notify(
                f"waiting for a node with {self._demand.words()} for {now - self._since:.0f} s: {waiting} trials wait, "
                f"the cluster has {nodes} nodes"
            )
