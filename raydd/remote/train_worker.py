"""A worker of a group: it takes trainings from the queue, one after another, until none is left."""

import gc
import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import ray
import ray.train
import torch
from ray.exceptions import RayError

from raydd.evaluation.failures import out_of_memory, reason_of
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import Scorer
from raydd.evaluation.saver import SECONDS, Saver, State
from raydd.evaluation.set_cache import SetCache
from raydd.remote.demand import Demand, worker_device

WAIT_SECONDS = 0.2


class Work(NamedTuple):
    """What every worker of a group gets."""

    queue: Any  # a `raydd.remote.queue_actor.QueueActor`
    demand: Demand
    group: str  # its name
    alone: bool = False  # the group takes trainings that ran out of memory
    checkpoint_seconds: float = SECONDS  # the time between two checkpoints of a training


class BrokenDeviceError(RuntimeError):
    """The device of this process no longer works; its other trainings need another process."""


def worker_name(group: str, rank: int) -> str:
    """Return a worker's name in the queue."""
    return f"{group} {rank}"


def work(config: dict[str, Any]) -> None:
    """Run jobs of the queue in one worker of the group, until none is left; ``work`` refers to a stored `Work`."""
    torch.set_num_threads(1)
    task: Work = ray.get(config["work"])
    worker = worker_name(task.group, ray.train.get_context().get_world_rank())
    ray.get(task.queue.join.remote(worker, ray.get_runtime_context().current_actor))
    try:
        device = worker_device(task.demand)
    except RuntimeError as error:
        ray.get(task.queue.stop.remote(str(error)))
        return
    scorer_of, complete = lru_cache(1)(partial(_scorer, device.type)), False
    while (job := ray.get(task.queue.take.remote(worker, task.alone))) is not None or not complete:
        matrix, complete = ray.get(task.queue.given.remote())
        if job is not None:
            _train(task, worker, scorer_of(matrix[0]), Job(*job))
        elif not complete:
            time.sleep(WAIT_SECONDS)


def _scorer(device: str, reference: Any) -> Scorer:
    """Return the scorer of what `store_sets` returned, whose sets are fetched when trainings need them."""
    matrix, handles = ray.get(reference)
    return Scorer(replace(matrix, device=device), SetCache(handles, ray.get))


def _train(task: Work, worker: str, scorer: Scorer, job: Job) -> None:
    """Run one training and store its result, or the reason why it has none."""
    queue = task.queue

    def keep_training(epoch: int, value: float) -> bool:
        return bool(ray.get(queue.keep_training.remote(job, epoch, value)))

    def save(state: State) -> None:
        ray.get(queue.save.remote(job, state))

    saver = Saver(save, ray.get(queue.load.remote(job)), task.checkpoint_seconds)
    try:
        outcome = scorer.score(job, keep_training, saver)
    except RayError:  # the queue is gone, and the evaluation with it
        raise
    except Exception as error:  # whatever a network or its data raise: the other trainings go on
        memory, reason = out_of_memory(error), reason_of(error)
        broken = "CUDA error" in str(error) and not memory
        ray.get(queue.fail.remote(worker, job, reason, memory=memory))
        del error
        if broken:
            raise BrokenDeviceError(reason) from None
    else:
        ray.get(queue.put.remote(worker, job, outcome))
        return
    gc.collect()  # the error's frames held the network
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
