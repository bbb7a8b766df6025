"""One distillation on many workers, which compute the numbered parts of each outer step: rollouts or shards."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.distillation.parts import Division
from raydd.remote.buffer_store import share
from raydd.remote.demand import Demand, Waiting, worker_device
from raydd.run.rollout_worker import RolloutTask, RolloutWorker, as_arrays, as_tensors

DEATHS = 8
"""How often actors may die, beside once each, until one computes a part."""
PAUSE_SECONDS = 0.5
POLL_SECONDS = 1.0


class RolloutActor(RolloutWorker):
    """Computes parts of one run's steps on the device that a demand asks for."""

    def __init__(self, task: RolloutTask, demand: Demand) -> None:
        super().__init__(task, worker_device(demand))


class _Shared(NamedTuple):
    """A value for this process, and in Ray's object store for actors."""

    value: Any
    reference: Any


class RolloutPool:
    """This process and actors, which compute the parts of a run's steps, see `raydd.distillation.parts.Parts`.

    This process computes what no actor is free for, so a run also goes on while its actors wait for a node. It sums the
    results in the order of the parts' numbers: the result of a step depends on the seed and on the number of parts, but
    not on the number of actors or on their speed. An actor that dies is replaced, and its part is computed again.

    Args:
        helpers: The number of actors.
        demand: What each of them needs.
        note: Gets lines for the user.
    """

    def __init__(self, helpers: int, demand: Demand, note: Callable[[str], None]) -> None:
        self._helpers, self._demand, self._note = helpers, demand, note
        self._waiting = Waiting(demand, 1 + helpers, note)
        self._deaths = 0
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, int | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            ray.kill(actor)
        self._idle, self._running = [], {}

    def start(self, task: RolloutTask, division: Division) -> "RolloutPool":
        """Submit the actors; no step waits for them."""
        self._count, self._part = division.count, division.part
        source, note = share(task.source) if isinstance(task.source, ArrowBuffer) else (task.source, "")
        self._task = ray.put(task._replace(source=source))
        if note:
            self._note(note)
        for _ in range(self._helpers):
            self._start_actor()
        return self

    def _start_actor(self) -> None:
        actor = ray.remote(RolloutActor).options(**self._demand.options).remote(self._task, self._demand)
        self._running[actor.ready.remote()] = (actor, None)

    def share(self, value: Any) -> Any:
        """Return a value that is sent to actors once."""
        return _Shared(value, ray.put(as_arrays(value)))

    def __call__(self, *arguments: Any) -> list[Any]:
        """Return the results of all parts for these arguments, in the order of their numbers."""
        own = [each.value if isinstance(each, _Shared) else each for each in arguments]
        sent = [each.reference if isinstance(each, _Shared) else as_arrays(each) for each in arguments]
        waiting, results = list(range(self._count)), dict[int, Any]()
        while len(results) < self._count:
            while self._idle and waiting:
                actor, index = self._idle.pop(0), waiting.pop(0)
                self._running[actor.compute.remote(index, *sent)] = (actor, index)
            if waiting:
                index = waiting.pop(0)
                results[index] = as_tensors(as_arrays(self._part(index, *own)))  # as it would arrive from an actor
            for reference in self._ended(block=not waiting and len(results) < self._count):
                done = self._collect(reference, waiting)
                if done is not None:
                    index, result = done
                    results[index] = as_tensors(result)
        return [results[index] for index in range(self._count)]

    def _ended(self, block: bool) -> list[Any]:
        """Return the calls that have ended, with ``block`` at least one; say which workers are missing."""
        while True:
            calls = list(self._running)
            many, seconds = (1, POLL_SECONDS) if block else (len(calls), 0.0)
            ended = ray.wait(calls, num_returns=many, timeout=seconds)[0] if calls else []
            self._waiting.check(1 + len(self._idle) + sum(index is not None for _, index in self._running.values()))
            if ended or not block:
                return list(ended)

    def _collect(self, reference: Any, waiting: list[int]) -> tuple[int, Any] | None:
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
            if index is not None:
                waiting.insert(0, index)
            self._replace(started=index is not None)
            return None
        self._idle.append(actor)
        if index is None:
            return None
        self._deaths = 0
        return index, result

    def _replace(self, started: bool) -> None:
        """Replace an actor that died; one that had not started after a pause, or Ray may place it on a dead node."""
        self._deaths += 1
        if self._deaths > DEATHS + self._helpers:
            raise RuntimeError(f"workers died {self._deaths} times in a row; check the memory. --resume continues")
        self._note("a worker died: it is replaced, and its part of the step is computed again")
        if not started:
            time.sleep(PAUSE_SECONDS)
        self._start_actor()
