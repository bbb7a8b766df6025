"""A matrix of trainings on Ray Train; workers take the next job when they finish one."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.config.placement import Where
from raydd.evaluation.jobs import Failure, Job, Outcome, Result
from raydd.evaluation.matrix import Matrix, same_training
from raydd.evaluation.set_cache import store_sets
from raydd.remote.demand import WORKERS_PER_GPU, Demand, demand_for, node_shapes, plan
from raydd.remote.job_queue import Counts
from raydd.remote.queue_actor import QueueActor
from raydd.remote.training_groups import MOST_REQUESTS, Run, TrainingGroups

POLL_SECONDS = 0.2
Store = Callable[[Job, Outcome], None]


class MatrixProgress(NamedTuple):
    """Finished trainings and their total number."""

    done: int
    total: int
    note: str = ""


def train_matrix(
    matrix: Matrix,
    where: Where,
    show: Callable[[MatrixProgress], None],
    known: Mapping[Job, Outcome] | None = None,
    store: Store | None = None,
) -> dict[Job, Result]:
    """Run every job of a matrix on the connected Ray.

    A training that raises is a `Failure` with its reason, and the others go on, unless more than ``where.max_failed``
    of them fail. One that runs out of memory is tried once more alone, at the end. No accuracy depends on the number
    of workers. Jobs in ``known`` do not run; ``store`` is called here with every other outcome, soon after it arrives.

    Raises:
        ValueError: The cluster cannot have such a worker.
        RuntimeError: A result cannot be stored.
    """
    known = known or {}
    jobs = [job for job in matrix.jobs() if job not in known]
    if not jobs:
        return dict(known)
    demand = _demand(matrix.device, where, lambda line: show(MatrixProgress(0, len(jobs), line)))
    planned = plan(demand, where.num_workers, len(jobs))
    queue, groups, begun = _started(matrix)
    results = _Results(queue, len(jobs), show, store or (lambda job, outcome: None))
    show(MatrixProgress(0, len(jobs), planned.note))
    sets = ray.put(store_sets(matrix, jobs, ray.put))
    if begun:
        queue.complete.remote([sets], [job for job in jobs if job not in begun])
    else:
        queue.begin.remote([sets], known, jobs, matrix.rungs, where.max_failed)
    run = Run(
        poll=results.poll,
        note=results.note,
        room=lambda: plan(demand, where.num_workers, len(jobs)).workers,
        minutes=where.max_wait,
        poll_seconds=POLL_SECONDS,
    )
    try:
        with groups:
            groups.run(demand, run)
        if (counts := results.poll()).alone and not counts.stopped:
            with TrainingGroups(queue) as groups:
                groups.run(alone_demand(demand), run._replace(room=lambda: 1), alone=True)
        stopped, reasons = results.poll().stopped, ray.get(queue.reasons.remote())
    finally:
        ray.kill(queue)
    if results.fault:
        raise RuntimeError(f"evaluation failed: {results.fault}; the other finished trainings are cached")
    not_run = f"not run: {stopped or 'the evaluation ended before'}"
    return {**known, **{job: results.all.get(job, Failure(reasons.get(job, not_run))) for job in jobs}}


def device_on_cluster(where: Where, note: Callable[[str], None]) -> str:
    """Return the device of every worker on the connected cluster, ``cpu`` or ``cuda``; ``note`` how long that takes."""
    return _demand(where.device, where, note).device


def _demand(device: str, where: Where, note: Callable[[str], None]) -> Demand:
    usual = 1 / WORKERS_PER_GPU
    return demand_for(device, gpus=where.gpus_per_worker, default_gpus=usual, note=note, minutes=where.max_wait)


class Early(NamedTuple):
    """Trainings that begin before the others of their matrix are known."""

    matrix: Matrix  # with some sets in place of those that are not known
    jobs: list[Job]  # the trainings that begin; none that is stopped at a rung


class _Started(NamedTuple):
    queue: Any  # a `raydd.remote.queue_actor.QueueActor`
    groups: TrainingGroups
    early: Early | None = None

    def end(self) -> None:
        self.groups.__exit__()
        ray.kill(self.queue)


@contextmanager
def early_workers(where: Where, early: Early | None = None) -> Iterator[None]:
    """Start the workers of the block's first `train_matrix`, which take long to load what they need.

    They also begin with some of its trainings, where these are known. Meanwhile they leave one CPU of this machine to
    the block. Trainings that turn out to be others than those of the matrix are dropped.
    """
    demand = _demand(where.device, where, lambda line: None)
    early = early and early._replace(matrix=replace(early.matrix, device=demand.device))
    started = _Started(*_workers(), early)
    _EARLY.append(started)
    try:
        workers = plan(demand, where.num_workers, MOST_REQUESTS).workers
        if early and early.jobs:
            sets, most = ray.put(store_sets(early.matrix, early.jobs, ray.put)), len(os.sched_getaffinity(0)) - 1
            rest = [*early.jobs], None, where.max_failed
            started.queue.begin.remote([sets], {}, *rest, most_running=max(1, min(workers, most)))
        started.groups.start(demand, workers)
        yield
    finally:
        if _EARLY:
            _EARLY.clear()
            started.end()


_EARLY: list[_Started] = []  # at most one


def _started(matrix: Matrix) -> tuple[Any, TrainingGroups, set[Job]]:
    """Return the queue and the groups of a matrix, new or early ones, and the trainings that have begun."""
    if not _EARLY:
        return *_workers(), set()
    started = _EARLY.pop()
    if (early := started.early) is None or not early.jobs:
        return started.queue, started.groups, set()
    if all(same_training(early.matrix, matrix, job) for job in early.jobs):
        return started.queue, started.groups, set(early.jobs)
    started.end()
    return *_workers(), set()


def _workers() -> tuple[Any, TrainingGroups]:
    """Return the queue's actor and its groups, of which none has started.

    The queue is on this node: it must not be lost with a node of the workers. A soft affinity is not enough, by which
    Ray has placed it on another node.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = ray.remote(QueueActor).options(num_cpus=0, scheduling_strategy=here).remote()
    return queue, TrainingGroups(queue)


def alone_demand(demand: Demand) -> Demand:
    """Return the demand of a worker that shares neither its GPU nor, without one, the CPUs and memory of its node."""
    if demand.gpus:
        return demand._replace(gpus=max(1.0, demand.gpus))
    nodes = [shape.resources for shape in node_shapes() if shape.alive and shape.room(demand)]
    largest = max(nodes, key=lambda node: (node.get("memory", 0.0), node.get("CPU", 0.0)), default={})
    return demand._replace(cpus=max(demand.cpus, largest.get("CPU", 0.0)))


class _Results:
    """The results that have arrived; outcomes are stored as they arrive."""

    def __init__(self, queue: Any, total: int, show: Callable[[MatrixProgress], None], store: Store) -> None:
        self._queue, self._total, self._show, self._store = queue, total, show, store
        self.all: dict[Job, Result] = {}
        self.fault = ""

    def poll(self) -> Counts:
        """Fetch new results, and return the queue's counts."""
        new, counts = ray.get(self._queue.poll.remote(len(self.all)))
        for job, result in new:
            self.all[job] = result
            if isinstance(result, Failure):
                continue
            try:
                self._store(job, result)
            except OSError as error:  # such as a full disk, which may still have room for another
                self.fault = self.fault or f"a result cannot be cached: {' '.join(str(error).split())}"
                ray.get(self._queue.stop.remote(self.fault))
        self._show(MatrixProgress(len(self.all), self._total))
        return Counts(*counts)

    def note(self, line: str) -> None:
        """Show a line with the progress."""
        self._show(MatrixProgress(len(self.all), self._total, line))
