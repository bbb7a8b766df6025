"""Workers of trainings that serve more than one matrix's time: started before it is known, or kept for the next one.

The start of a group takes some seconds, mostly for loading PyTorch and Ray Train.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.config.placement import Where
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import Matrix, same_training
from raydd.evaluation.set_cache import store_sets
from raydd.remote.demand import WORKERS_PER_GPU, Demand, demand_for, plan
from raydd.remote.queue_actor import QueueActor
from raydd.remote.training_groups import MOST_REQUESTS, TrainingGroups


class Early(NamedTuple):
    """Trainings that begin before the others of their matrix are known."""

    matrix: Matrix  # with some sets in place of those that are not known
    jobs: list[Job]  # the trainings that begin; none that is stopped at a rung


class Workers(NamedTuple):
    """A queue of trainings, and the groups that work on it.

    Attributes:
        queue: An actor, a `raydd.remote.queue_actor.QueueActor`.
        groups: The groups, none or more of which have started.
        demand: What each worker has.
        begun: Trainings that have begun.
    """

    queue: Any
    groups: TrainingGroups
    demand: Demand
    begun: Early | None = None

    def end(self) -> None:
        """End the groups, and the queue."""
        self.groups.end()
        ray.kill(self.queue)


class _Block:
    """A block whose evaluations may take workers that wait, and may leave theirs to the next one."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.waiting: Workers | None = None

    def take(self) -> Workers | None:
        workers, self.waiting = self.waiting, None
        return workers


_BLOCK: ContextVar[_Block | None] = ContextVar("block", default=None)


@contextmanager
def _block(keep: bool) -> Iterator[_Block]:
    block = _Block(keep)
    before = _BLOCK.set(block)
    try:
        yield block
    finally:
        _BLOCK.reset(before)
        if workers := block.take():
            workers.end()


@contextmanager
def kept_workers() -> Iterator[None]:
    """Keep the workers of an evaluation for the block's next one, if it needs equal ones.

    Meanwhile they hold their CPUs and GPUs.
    """
    with _block(keep=True):
        yield


@contextmanager
def early_workers(where: Where, early: Early | None = None) -> Iterator[None]:
    """Start the workers of the block's first `raydd.remote.train_matrix.train_matrix`.

    They also begin with some of its trainings, where these are known. Meanwhile they leave one CPU of this machine to
    the block. Trainings that turn out to be others than those of the matrix are dropped.
    """
    demand = evaluation_demand(where.device, where, lambda line: None)
    early = early and early._replace(matrix=replace(early.matrix, device=demand.device))
    with _block(keep=False) as block:
        started = block.waiting = _new_workers(demand)._replace(begun=early if early and early.jobs else None)
        workers = plan(demand, where.num_workers, MOST_REQUESTS).workers
        if started.begun:
            matrix, jobs = started.begun
            sets, most = ray.put(store_sets(matrix, jobs, ray.put)), len(os.sched_getaffinity(0)) - 1
            rest = [*jobs], None, where.max_failed
            started.queue.begin.remote([sets], {}, *rest, most_running=max(1, min(workers, most)))
        started.groups.start(demand, workers)
        yield


@contextmanager
def workers_for(matrix: Matrix, demand: Demand) -> Iterator[tuple[Workers, set[Job], bool]]:
    """Give workers for a matrix: those that wait in this block, or new ones.

    Yields them, the trainings of the matrix that they have begun, and whether they are kept afterwards.
    """
    block = _BLOCK.get()
    workers, begun = _usable(block.take() if block else None, matrix, demand)
    try:
        yield workers, begun, block is not None and block.keep
        if block is not None and block.keep and workers.groups.working:
            block.waiting = workers._replace(begun=None)
    finally:
        if block is None or block.waiting is None:
            workers.end()


def _usable(waiting: Workers | None, matrix: Matrix, demand: Demand) -> tuple[Workers, set[Job]]:
    if waiting is None:
        return _new_workers(demand), set()
    if waiting.demand == demand and waiting.begun is None:
        return waiting, set()
    if waiting.begun and all(same_training(waiting.begun.matrix, matrix, job) for job in waiting.begun.jobs):
        return waiting, set(waiting.begun.jobs)
    waiting.end()
    return _new_workers(demand), set()


def _new_workers(demand: Demand) -> Workers:
    """Return the queue's actor and its groups, of which none has started.

    The queue is on this node: it must not be lost with a node of the workers. A soft affinity is not enough, by which
    Ray has placed it on another node.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = ray.remote(QueueActor).options(num_cpus=0, scheduling_strategy=here).remote()
    return Workers(queue, TrainingGroups(queue), demand)


def evaluation_demand(device: str, where: Where, note: Callable[[str], None]) -> Demand:
    """Return what a worker of an evaluation needs; ``note`` how long that takes to find out."""
    usual = 1 / WORKERS_PER_GPU
    return demand_for(device, gpus=where.gpus_per_worker, default_gpus=usual, note=note, minutes=where.max_wait)
