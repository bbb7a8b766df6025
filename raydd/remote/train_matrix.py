"""A matrix of trainings on Ray Train; workers take the next job when they finish one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.config.placement import Where
from raydd.evaluation.jobs import Failure, Job, Outcome, Result
from raydd.evaluation.matrix import Matrix
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
    queue, groups = _EARLY.pop() if _EARLY else _workers()
    results = _Results(queue, len(jobs), show, store or (lambda job, outcome: None))
    show(MatrixProgress(0, len(jobs), planned.note))
    sets = ray.put(store_sets(matrix, jobs, ray.put))
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


@contextmanager
def early_workers(where: Where) -> Iterator[None]:
    """Start the workers of the block's first `train_matrix`, which take long to load what they need."""
    demand = _demand(where.device, where, lambda line: None)
    queue, groups = _workers()
    _EARLY.append((queue, groups))
    try:
        groups.start(demand, plan(demand, where.num_workers, MOST_REQUESTS).workers)
        yield
    finally:
        if _EARLY:
            _EARLY.clear()
            groups.__exit__()
            ray.kill(queue)


_EARLY: list[tuple[Any, TrainingGroups]] = []  # at most one


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
