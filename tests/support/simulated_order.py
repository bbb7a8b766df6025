"""The order of a campaign's work, run with a clock of its own."""

import heapq
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from raydd.campaigns.order import Order, Task


class Simulation(NamedTuple):
    """What a simulated campaign takes.

    Attributes:
        seconds: From the first start to the last end.
        busy: Share of the workers' time in which they work, until the last cell has started.
        ends: When each cell's scores are done, by their key, in seconds.
    """

    seconds: float
    busy: float
    ends: dict[str, float]


def simulate(order: Order, workers: int, tell: Callable[[float, str], None] = lambda now, key: None) -> Simulation:
    """Run the order with a clock of its own on workers that do every part in its estimated time.

    Args:
        order: Of tasks with known lengths, of which none has started.
        workers: How many parts run at the same time.
        tell: Takes the time and the key of each part that starts.
    """
    now, free, tie = 0.0, workers, count()
    waiting: list[Task] = []  # a part each, of tasks that have started
    running: list[tuple[float, int, Task]] = []
    left = {task.key: task.parts for task in order.tasks.values()}
    started: list[tuple[float, float]] = []
    ends: dict[str, float] = {}
    last_cell = 0.0
    while True:
        while free:
            if not waiting:
                task = order.take()
                if task is None:
                    break
                waiting = [task] * task.parts
                last_cell = now if task.stage != "scores" else last_cell
            task = waiting.pop()
            length = task.seconds / task.parts
            tell(now, task.key)
            started.append((now, now + length))
            heapq.heappush(running, (now + length, next(tie), task))
            free -= 1
        if not running:
            break
        now, _, task = heapq.heappop(running)
        free += 1
        left[task.key] -= 1
        if not left[task.key]:
            order.end(task.key)
            if task.stage == "scores":
                ends[task.key] = now
    worked = sum(min(end, last_cell) - begin for begin, end in started if begin < last_cell)
    return Simulation(now, worked / (workers * last_cell) if last_cell else 1.0, ends)
