"""One distillation on many actors, which compute the rollouts of each outer step."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from torch import Tensor

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.distillation.rollouts import Rollout
from raydd.remote.buffer_store import share
from raydd.remote.session import free_nodes, spread
from raydd.run.rollout_worker import RolloutTask, RolloutWorker

ATTEMPTS, STARTS = 3, 8
PAUSE_SECONDS = 0.5
_STARTING = -1  # instead of a rollout's number
NOTE_SECONDS, PATIENCE_SECONDS = 30.0, 900.0


class RolloutPool:
    """Actors that compute the rollouts of a run, which the driver then averages in the order of their numbers.

    The result of a step depends on the seed and on the number of rollouts, but not on the number of actors or on their
    speed. An actor that dies is replaced, and other actors compute its rollouts again. `note` gets lines for the user.
    """

    def __init__(
        self, requested: int | None, device: str, note: Callable[[str], None], gpus: float | None = None
    ) -> None:
        self._requested, self._device, self._note, self._share = requested, device, note, gpus
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
        threads, nodes = task.config.threads or 1, free_nodes()
        gpu = self._device != "cpu" and any(node.gpus for node in nodes)
        if self._device == "cuda" and not gpu:
            raise ValueError("--device cuda: the cluster has no free GPU; use --device cpu")
        if threads > (most := max(int(node.cpus) for node in nodes)) > 0:
            raise ValueError(f"threads = {threads}: no node has more than {most} free CPUs; use --set threads=1")
        room = [node._replace(cpus=node.cpus // threads) for node in nodes]
        layout = spread(self._requested, task.config.rollouts, room, gpu, self._share)
        self._count, self._workers = task.config.rollouts, layout.workers
        self._options = {"num_cpus": layout.cpus * threads, "num_gpus": layout.gpus}
        source, note = share(task.source) if isinstance(task.source, ArrowBuffer) else (task.source, "")
        self._task = ray.put(task._replace(source=source))
        for line in filter(None, (layout.note, note)):
            self._note(line)
        for _ in range(layout.workers):
            self._start_actor()
        return self

    def _start_actor(self) -> None:
        device = "cuda" if self._options["num_gpus"] else "cpu"
        actor = ray.remote(RolloutWorker).options(**self._options).remote(self._task, device)
        self._running[actor.ready.remote()] = (actor, None)

    def __call__(self, leaves: Mapping[str, Tensor], step: int, attempt: int) -> list[Rollout]:
        """Return all rollouts of a step, in the order of their numbers."""
        shared = ray.put({name: leaf.cpu().numpy() for name, leaf in leaves.items()})
        devices = [leaf.device for leaf in leaves.values()]
        waiting, rollouts, deaths = list(range(self._count)), dict[int, Rollout](), dict[int, int]()
        while len(rollouts) < self._count:
            while self._idle and waiting:
                actor, index = self._idle.pop(0), waiting.pop(0)
                self._running[actor.roll.remote(shared, step, attempt, index)] = (actor, index)
            for reference in self._ready():
                done = self._collect(reference, waiting, deaths)
                if done is not None:
                    index, (loss, gradients) = done
                    tensors = zip(gradients, devices, strict=True)
                    rollouts[index] = Rollout(loss, tuple(torch.tensor(array).to(device) for array, device in tensors))
        return [rollouts[index] for index in range(self._count)]

    def _ready(self) -> list[Any]:
        """Wait for calls to end and return them."""
        start = time.monotonic()
        while True:
            ready, _ = ray.wait(list(self._running), timeout=NOTE_SECONDS)
            if ready:
                return list(ready)
            if any(index is not None for _, index in self._running.values()):
                continue  # a rollout takes as long as it takes
            waited = time.monotonic() - start
            if waited > PATIENCE_SECONDS:
                raise RuntimeError(
                    f"no worker could start in {waited:.0f} s: the cluster has no free CPU or GPU; --resume continues"
                )
            self._note(f"waiting for a worker for {waited:.0f} s: the cluster has no free CPU or GPU")

    def _collect(self, reference: Any, waiting: list[int], deaths: dict[int, int]) -> tuple[int, Any] | None:
        """Process a call that ended: return its rollout, or None where an actor started or died."""
        actor, index = self._running.pop(reference)
        try:
            rollout = ray.get(reference)
        except RayTaskError as error:
            what = "a worker could not start" if index is None else f"rollout {index} failed"
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
        return None if index is None else (index, rollout)

    def _replace(self, index: int | None, waiting: list[int], deaths: dict[int, int]) -> None:
        """Replace an actor that died, after a pause: at once, Ray may place it on the node that has just died."""
        key = _STARTING if index is None else index
        deaths[key] = died = deaths.get(key, 0) + 1
        if index is not None:
            waiting.insert(0, index)
        if died >= (STARTS + self._workers if index is None else ATTEMPTS):
            what = "workers that started" if index is None else f"the worker of rollout {index}"
            raise RuntimeError(f"{what} died {died} times in one step; check the memory. --resume continues")
        self._note("a worker died: it is replaced, and its part of the step is computed again")
        if index is None:
            time.sleep(PAUSE_SECONDS)
        self._start_actor()
