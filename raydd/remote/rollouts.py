"""One distillation on many actors, which compute the numbered parts of each outer step: rollouts or shards."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.config.placement import HERE
from raydd.remote.buffer_store import share
from raydd.remote.demand import WORKERS_PER_GPU, Demand, Waiting, capacity, demand_for, node_shapes, plan, worker_device
from raydd.run.rollout_worker import RolloutTask, RolloutWorker, as_arrays, as_tensors, concurrent_parts

ATTEMPTS, STARTS = 3, 8
PAUSE_SECONDS = 0.5
_STARTING = -1  # instead of a part's number
POLL_SECONDS = 1.0


class RolloutActor(RolloutWorker):
    """Computes parts of one run's steps on the device that a demand asks for."""

    def __init__(self, task: RolloutTask, demand: Demand) -> None:
        super().__init__(task, worker_device(demand))


class RolloutPool:
    """Actors that compute the parts of a run's steps, see `raydd.distillation.parts.Parts`.

    The driver sums the results in the order of the parts' numbers: the result of a step depends on the seed and on the
    number of parts, but not on the number of actors or on their speed. An actor that dies is replaced, and other actors
    compute its parts again. `note` gets lines for the user.
    """

    def __init__(
        self,
        requested: int | None,
        device: str,
        note: Callable[[str], None],
        gpus: float | None = None,
        max_wait: float = HERE.max_wait,
    ) -> None:
        self._requested, self._device, self._note, self._gpus, self._max_wait = requested, device, note, gpus, max_wait
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, int | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            ray.kill(actor)
        self._idle, self._running = [], {}

    def start(self, task: RolloutTask) -> "RolloutPool":
        """Start the actors; the first step waits for them."""
        self._count, threads = concurrent_parts(task.config), task.config.threads or 1
        wanted = min(self._requested or self._count, self._count)
        usual = _even_share(wanted, threads)
        demand = demand_for(
            self._device, cpus=threads, gpus=self._gpus, default_gpus=usual, note=self._note, minutes=self._max_wait
        )
        layout = plan(demand, self._requested, self._count)
        self._demand, self._workers = demand, layout.workers
        self._waiting = Waiting(demand, layout.workers, self._note, self._max_wait)
        source, note = share(task.source) if isinstance(task.source, ArrowBuffer) else (task.source, "")
        self._task = ray.put(task._replace(source=source))
        for line in filter(None, (layout.note, note)):
            self._note(line)
        for _ in range(layout.workers):
            self._start_actor()
        return self

    def _start_actor(self) -> None:
        actor = ray.remote(RolloutActor).options(**self._demand.options).remote(self._task, self._demand)
        self._running[actor.ready.remote()] = (actor, None)

    def share(self, value: Any) -> Any:
        """Return a reference to a value in Ray's object store."""
        return ray.put(as_arrays(value))

    def __call__(self, *arguments: Any) -> list[Any]:
        """Return the results of all parts for these arguments, in the order of their numbers."""
        sent = [as_arrays(argument) for argument in arguments]
        waiting, results, deaths = list(range(self._count)), dict[int, Any](), dict[int, int]()
        while len(results) < self._count:
            while self._idle and waiting:
                actor, index = self._idle.pop(0), waiting.pop(0)
                self._running[actor.compute.remote(index, *sent)] = (actor, index)
            for reference in self._ready():
                done = self._collect(reference, waiting, deaths)
                if done is not None:
                    index, result = done
                    results[index] = as_tensors(result)
        return [results[index] for index in range(self._count)]

    def _ready(self) -> list[Any]:
        """Wait for calls to end and return them; say which workers are missing meanwhile."""
        while not (ready := ray.wait(list(self._running), timeout=POLL_SECONDS)[0]):
            self._waiting.check(len(self._idle) + sum(index is not None for _, index in self._running.values()))
        return list(ready)

    def _collect(self, reference: Any, waiting: list[int], deaths: dict[int, int]) -> tuple[int, Any] | None:
        """Process a call that ended: return a part's number and result, or None where an actor started or died."""
        actor, index = self._running.pop(reference)
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            what = "a worker could not start" if index is None else f"part {index} of a step failed"
            raise RuntimeError(f"{what}: {error.cause}") from error
        except RayError as error:  # the actor, its node, or its result
            if isinstance(error, ActorDiedError) and error.actor_init_failed:
                raise RuntimeError(f"a worker could not start: {str(error).strip().splitlines()[-1]}") from error
            ray.kill(actor)
            self._replace(index, waiting, deaths)
            return None
        if index is None:
            deaths.pop(_STARTING, None)
        self._idle.append(actor)
        return None if index is None else (index, result)

    def _replace(self, index: int | None, waiting: list[int], deaths: dict[int, int]) -> None:
        """Replace an actor that died, after a pause: at once, Ray may place it on the node that has just died."""
        key = _STARTING if index is None else index
        deaths[key] = died = deaths.get(key, 0) + 1
        if index is not None:
            waiting.insert(0, index)
        if died >= (STARTS + self._workers if index is None else ATTEMPTS):
            what = "workers that started" if index is None else f"the worker of part {index}"
            raise RuntimeError(f"{what} died {died} times in one step; check the memory. --resume continues")
        self._note("a worker died: it is replaced, and its part of the step is computed again")
        if index is None:
            time.sleep(PAUSE_SECONDS)
        self._start_actor()


def _even_share(workers: int, cpus: int) -> float:
    """Return GPUs a worker: the largest 1 / k, k up to `WORKERS_PER_GPU`, with which the cluster has room for all."""
    shapes = node_shapes()
    shares = (1 / k for k in range(1, WORKERS_PER_GPU))
    return next((share for share in shares if capacity(Demand(cpus, share), shapes) >= workers), 1 / WORKERS_PER_GPU)
