"""A matrix of trainings on Ray Train; workers take the next job when they finish one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ray

from raydd.config.placement import Where
from raydd.evaluation.jobs import Failure, Job, Outcome, Result
from raydd.evaluation.matrix import Matrix
from raydd.evaluation.set_cache import store_sets
from raydd.remote.demand import Demand, node_shapes, plan
from raydd.remote.job_queue import Counts
from raydd.remote.training_groups import Run, TrainingGroups
from raydd.remote.training_workers import evaluation_demand, workers_for

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
    demand = evaluation_demand(matrix.device, where, lambda line: show(MatrixProgress(0, len(jobs), line)))
    planned = plan(demand, where.num_workers, len(jobs))
    show(MatrixProgress(0, len(jobs), planned.note))
    with workers_for(matrix, demand) as (workers, begun, keep):
        queue, groups = workers.queue, workers.groups
        results = _Results(queue, len(jobs), show, store or (lambda job, outcome: None))
        sets = ray.put(store_sets(matrix, jobs, ray.put))
        if begun:
            queue.complete.remote([sets], [job for job in jobs if job not in begun])
        else:
            queue.begin.remote([sets], known, jobs, matrix.rungs, where.max_failed, keep=keep)
        run = Run(
            poll=results.poll,
            note=results.note,
            room=lambda: plan(demand, where.num_workers, len(jobs)).workers,
            minutes=where.max_wait,
            poll_seconds=POLL_SECONDS,
            keep=keep,
        )
        groups.run(demand, run)
        if (counts := results.poll()).alone and not counts.stopped:
            groups.end()
            with TrainingGroups(queue) as alone:
                alone.run(alone_demand(demand), run._replace(room=lambda: 1, keep=False), alone=True)
        stopped, reasons = results.poll().stopped, ray.get(queue.reasons.remote())
    if results.fault:
        raise RuntimeError(f"evaluation failed: {results.fault}; the other finished trainings are cached")
    not_run = f"not run: {stopped or 'the evaluation ended before'}"
    return {**known, **{job: results.all.get(job, Failure(reasons.get(job, not_run))) for job in jobs}}


def device_on_cluster(where: Where, note: Callable[[str], None]) -> str:
    """Return the device of every worker on the connected cluster, ``cpu`` or ``cuda``; ``note`` how long that takes."""
    return evaluation_demand(where.device, where, note).device


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
