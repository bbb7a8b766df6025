"""The demand of a search's trials: what one needs, how many are submitted at once, and notes while they wait."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ray import tune
from ray.tune.experiment import Trial

from raydd.config.schema import DistillConfig
from raydd.remote.demand import WORKERS_PER_GPU, Demand, Waiting, capacity, demand_for, node_shapes, plan
from raydd.remote.trials import ByReference, TrialEvents
from raydd.run.rollout_worker import concurrent_parts

Note = Callable[[str], None]


class Limits(NamedTuple):
    """What a run of trials may use."""

    concurrent: int | None = None  # None takes as many as the cluster has room for
    seconds: float | None = None  # after which trials are stopped where they are
    gpus: float | None = None  # per trial; None shares them evenly
    max_wait: float = math.inf  # minutes for which all trials may wait for a node


def trial_demand(config: DistillConfig, device: str, limits: Limits, trials: int, note: Note) -> Demand:
    """Return what one trial needs; trials share the GPUs evenly, at most `WORKERS_PER_GPU` on one.

    Args:
        config: Settings of a trial.
        device: The user's ``auto``, ``cpu`` or ``cuda``.
        limits: The user's limits.
        trials: How many are left to run.
        note: Gets lines about a wait for the first node.

    Raises:
        ValueError: No kind of node has room for a trial.
    """
    wanted, shapes = min(limits.concurrent or trials, trials), node_shapes()
    threads = float(config.threads or 1)
    for sharing in range(1, WORKERS_PER_GPU + 1):
        try:
            demand = demand_for(
                device, cpus=threads, gpus=limits.gpus, default_gpus=1 / sharing, note=note, minutes=limits.max_wait
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
    helpers: int = 0  # actors that compute parts of a trial's steps beside it, each with the same demand

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The bundles of a trial's placement group: the trial's own, and one for each helper."""
        return [self.demand.bundle] * (1 + self.helpers)


def trial_plan(
    config: DistillConfig, device: str, limits: Limits, trials: int, note: Note, *, turns: bool
) -> TrialPlan:
    """Return how many trials are submitted at once, and the demand of each.

    Where the cluster has room for more workers than trials, the rest computes parts of trials' steps. They are reserved
    with the trial, so that no trial waits for helpers that other trials hold.

    Trials that take ``turns`` are all submitted, so that only their CPUs limit how many run at once. Each then demands
    more CPUs than it uses, but not more than the largest node has.
    """
    demand = trial_demand(config, device, limits, trials, note)
    layout = TrialPlan(plan(demand, limits.concurrent, trials).workers, demand)
    if (parts := concurrent_parts(config)) > 1 and not turns:
        room = capacity(demand, node_shapes()) // min(limits.concurrent or trials, trials)
        layout = layout._replace(helpers=int(max(0, min(parts, room) - 1)))
    if turns and limits.concurrent is not None and layout.workers < trials:
        nodes = [shape.resources.get("CPU", 0.0) for shape in node_shapes() if shape.alive]
        cpus = max(demand.cpus, min(max(nodes, default=0.0), 1 + sum(nodes) // (layout.workers + 1)))
        layout = layout._replace(demand=demand._replace(cpus=cpus))
    return layout


class WaitingNotes(ByReference, tune.Callback):  # type: ignore[misc]
    """Notes for the user while trials wait for a node with room; ends a search that has waited for too long."""

    def __init__(self, note: Note, events: TrialEvents, layout: TrialPlan, minutes: float) -> None:
        self._events, self._workers = events, layout.workers
        self._waiting = Waiting(layout.demand, layout.workers, note, minutes)

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Note how long no trial has run."""
        states = {trial.status for trial in trials}
        waits = Trial.PENDING in states and Trial.RUNNING not in states
        try:
            self._waiting.check(up=0 if waits else self._workers)
        except RuntimeError as error:
            self._events.unusable = str(error)
