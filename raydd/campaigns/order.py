"""The order of a campaign's work: what starts next on free workers."""

import heapq
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from raydd.campaigns.graph import Graph

STAGES = ("experts", "distillation", "scores")


class Task(NamedTuple):
    """A node of the graph as work.

    Attributes:
        key: Its key.
        stage: Experts, distillation or scores.
        needs: Keys of the tasks before it.
        parts: Pieces of equal length that workers can do at the same time: experts, or trainings.
        seconds: Estimated seconds of one worker for all parts.
    """

    key: str
    stage: str
    needs: tuple[str, ...] = ()
    parts: int = 1
    seconds: float = 1.0


class Order:
    """Which tasks start next.

    What ends a cell comes first, so that whole cells end early: scores before distillations before experts; among
    equals those of the cell that comes first in its table, and among those the longest.

    Args:
        tasks: All tasks.
        cells: For each cell the keys of all tasks that it needs, in the order of the tables.
    """

    def __init__(self, tasks: Iterable[Task], cells: Iterable[Iterable[str]]) -> None:
        self.tasks = {task.key: task for task in tasks}
        place: dict[str, int] = {}
        for number, keys in enumerate(cells):
            for key in keys:
                place.setdefault(key, number)
        self._rank = {key: self._rank_of(task, place.get(key, len(place))) for key, task in self.tasks.items()}
        self._users: dict[str, list[str]] = {}
        for task in self.tasks.values():
            for need in task.needs:
                self._users.setdefault(need, []).append(task.key)
        self._open = {key: {need for need in task.needs if need in self.tasks} for key, task in self.tasks.items()}
        self._ready = [(self._rank[key], key) for key, needs in self._open.items() if not needs]
        heapq.heapify(self._ready)
        self.failed: dict[str, str] = {}
        self.unfinished = len(self.tasks)

    def _rank_of(self, task: Task, place: int) -> tuple[int, int, float]:
        return -STAGES.index(task.stage), place, -task.seconds

    @property
    def next_stage(self) -> str:
        """The stage of the next task; empty where there is none now."""
        return self.tasks[self._ready[0][1]].stage if self._ready else ""

    def take(self) -> Task | None:
        """Return the next task whose needs are done, and count it as started; None where there is none now."""
        return self.tasks[heapq.heappop(self._ready)[1]] if self._ready else None

    def done(self, key: str) -> None:
        """Record that a task was done before, whether or not its needs are."""
        self._ready = [entry for entry in self._ready if entry[1] != key]
        heapq.heapify(self._ready)
        self._open[key] = {key}  # so that it never becomes ready
        self.end(key)

    def end(self, key: str) -> None:
        """Record that a task is done, unless it has failed."""
        if key in self.failed:
            return
        self.unfinished -= 1
        for user in self._users.get(key, ()):
            self._open[user].discard(key)
            if not self._open[user] and user not in self.failed:
                heapq.heappush(self._ready, (self._rank[user], user))

    def fail(self, key: str, reason: str) -> None:
        """Record that a task failed; none of those that need it starts."""
        if key in self.failed:
            return
        self.failed[key] = reason
        self.unfinished -= 1
        for user in self._users.get(key, ()):
            self.fail(user, reason)


def tasks_of(graph: Graph, seconds: Mapping[str, float]) -> list[Task]:
    """Return the nodes of a graph as tasks, with their estimated seconds by key."""
    tasks = [
        Task(key, "experts", (), config.experts.num_experts, seconds.get(key, 1.0))
        for key, config in graph.experts.items()
    ]
    tasks += [
        Task(key, "distillation", graph.requirements(key), 1, seconds.get(key, 1.0)) for key in graph.distillations
    ]
    for key, scoring in graph.scores.items():
        tasks.append(Task(key, "scores", graph.requirements(key), scoring.trainings, seconds.get(key, 1.0)))
    return tasks


def order_of(graph: Graph, seconds: Mapping[str, float]) -> Order:
    """Return the order of a graph's tasks."""
    scores = (score for cell in graph.cells for score in cell.scores)
    return Order(tasks_of(graph, seconds), (graph.all_requirements([score]) for score in scores))
