"""The work of a campaign on Ray: distillations take turns in this process; experts and scores have threads."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from itertools import accumulate
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import ray._private.auto_init_hook

from raydd.campaigns.budget import Budget
from raydd.campaigns.order import Order, Task
from raydd.config.placement import Where
from raydd.io.signals import terminated
from raydd.remote.demand import capacity, demand_for, node_shapes
from raydd.remote.distillation import Steps, wait_for

ROOM_SECONDS, STOP_SECONDS = 30.0, 20.0
BATCH, MOST = 16, 48
"""Trainings a worker that are scored together where something else can start on it, since the start of an evaluation
takes some seconds; and at most, since a batch does not get more workers later."""


class Running(Protocol):
    """Work that has started.

    Attributes:
        workers: How many workers it takes.
        pending: A call that is waited for; None without one.
    """

    workers: int
    pending: Any

    def advance(self) -> bool:
        """Go on, and return whether it has ended; raise what made it fail."""

    def close(self) -> None:
        """End it early."""


class InSteps:
    """A distillation, which yields where it waits; it has a context of its own."""

    def __init__(self, steps: Steps, done: Callable[[Any], None]) -> None:
        self.workers, self.pending = 1, None
        self._steps, self._done, self._context = steps, done, copy_context()

    def advance(self) -> bool:
        """Go on to the next wait."""
        try:
            self.pending = self._context.run(next, self._steps)
        except StopIteration as end:
            self._done(end.value)
            return True
        return False

    def close(self) -> None:
        """Kill its worker."""
        with suppress(Exception):  # Ray may have ended
            self._context.run(self._steps.close)


class InThread:
    """Work that waits by itself, in a thread of its own; ``done`` is given its results here, one by one."""

    def __init__(
        self, workers: int, work: Callable[[], Iterable[Any]], done: Callable[[Any], None], stop: Callable[[], None]
    ) -> None:
        self.workers, self.pending = workers, None
        self._work, self._done, self._stop = work, done, stop
        self._results = SimpleQueue[Any]()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for result in self._work():
                self._results.put(result)
        except BaseException as error:  # raised again in the main thread
            self._error = error

    def advance(self) -> bool:
        """Look for results, and whether it has ended."""
        ended = not self._thread.is_alive()
        while not self._results.empty():
            self._done(self._results.get())
        if ended and self._error is not None:
            raise self._error
        return ended

    def close(self) -> None:
        """Let it end, before Ray does: a thread that asks an ended Ray would end this process without a word."""
        self._stop()
        self._thread.join(STOP_SECONDS)


class Start(NamedTuple):
    """How tasks are started; each takes the workers that are free.

    Attributes:
        experts: Starts the training of a buffer.
        distillation: Starts a distillation.
        scores: Starts a batch of scores.
    """

    experts: Callable[[Task, int], Running]
    distillation: Callable[[Task], Running]
    scores: Callable[[Sequence[Task], int], Running]


class Executor:
    """Runs an order on the connected Ray.

    Args:
        order: The order.
        start: How its tasks are started.
        where: Device and number of workers.
        budget: Takes the seconds of GPUs at work, and says whether more may start.
        note: Takes a line.
    """

    def __init__(self, order: Order, start: Start, where: Where, budget: Budget, note: Callable[[str], None]) -> None:
        self._order, self._start, self._where, self._budget = order, start, where, budget
        self._note = note
        self._running: dict[tuple[str, ...], Running] = {}
        self._batch: list[Task] = []
        self._demand = demand_for(where.device, gpus=where.gpus_per_worker, note=note, minutes=where.max_wait)
        self._slots, self._checked, self._last = self._room(), time.monotonic(), time.monotonic()

    def run(self, show: Callable[[], None]) -> None:
        """Work until nothing is left that can be done; ``show`` is called again and again."""
        ray._private.auto_init_hook.enable_auto_connect = False  # no thread starts another Ray when this one has ended
        try:
            while self._order.unfinished:
                self._fill()
                if not self._running:
                    break
                wait_for([one.pending for one in self._running.values()])
                self._advance()
                show()
        finally:
            for one in self._running.values():
                one.close()

    @property
    def running(self) -> list[str]:
        """The keys of what runs."""
        return [key for keys in self._running for key in keys]

    def _room(self) -> int:
        """Return how many workers there is room for."""
        room = int(max(1, capacity(self._demand, node_shapes())))
        return min(room, self._where.num_workers or room)

    def _fill(self) -> None:
        """Start tasks on free workers."""
        now = time.monotonic()
        self._budget.gpu_seconds += (now - self._last) * self._demand.gpus * min(self._used(), self._slots)
        self._last = now
        if now - self._checked > ROOM_SECONDS:
            self._slots, self._checked = self._room(), now
        while (free := self._slots - self._used()) > 0 and self._budget.may_start and not terminated():
            trainings, stage = sum(task.parts for task in self._batch), self._order.next_stage
            if stage == "scores" and trainings < MOST * free and (task := self._order.take()):
                self._batch.append(task)
            elif trainings >= BATCH * free or (self._batch and not stage):
                self._score(free)
            elif (task := self._order.take()) is None:
                break
            elif task.stage == "experts":
                self._running[task.key,] = self._start.experts(task, min(free, task.parts))
            else:
                self._running[task.key,] = self._start.distillation(task)

    def _used(self) -> int:
        return sum(one.workers for one in self._running.values())

    def _score(self, free: int) -> None:
        """Start a batch of scores on free workers, and leave what would be too long for them to another batch."""
        parts = accumulate(task.parts for task in self._batch)
        count = max(1, sum(trainings <= MOST * free for trainings in parts))
        batch, self._batch = self._batch[:count], self._batch[count:]
        trainings = sum(task.parts for task in batch)
        self._running[tuple(task.key for task in batch)] = self._start.scores(batch, min(free, trainings))

    def _advance(self) -> None:
        for keys, one in [*self._running.items()]:
            try:
                if not one.advance():
                    continue
                for key in keys:
                    self._order.end(key)
            except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                self._note(f"failed: {reason}")
                for key in keys:
                    self._order.fail(key, reason)
            del self._running[keys]
