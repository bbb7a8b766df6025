"""The queue of a matrix's trainings in an actor; it loads neither PyTorch nor Ray Train, and so starts at once."""

from collections.abc import Mapping
from typing import Any

import ray

from raydd.evaluation.jobs import Job, Outcome, Result
from raydd.remote.job_queue import Checkpoints, Counts, JobQueue


class QueueActor(JobQueue):
    """The queue in an actor, with its workers and the checkpoints of running trainings in the object store."""

    def __init__(self) -> None:
        super().__init__([])
        self._checkpoints, self._workers = Checkpoints(ray.put, ray.get), dict[str, Any]()
        self._matrix: list[Any] = []

    def begin(self, matrix: list[Any], known: Mapping[Job, Outcome], *arguments: Any) -> None:
        """Take the trainings, see `JobQueue`.

        Args:
            matrix: A list of one reference: what `store_sets` returned.
            known: Trainings that do not run; they count at the rungs.
            arguments: Those of a `JobQueue`.
        """
        super().__init__(*arguments)
        for job, outcome in known.items():
            for epoch, value in outcome.curve:
                self.keep_training(job, epoch, value)
        self._matrix = matrix

    def matrix(self) -> list[Any]:
        """Return the list of the reference; it is empty until the trainings are known."""
        return self._matrix

    def join(self, worker: str, actor: Any) -> None:
        """Add a worker, so that it can be ended."""
        self._workers[worker] = actor

    def joined(self, group: str) -> int:
        """Return how many workers of a group have joined."""
        return sum(worker.startswith(f"{group} ") for worker in self._workers)

    def workers(self) -> list[Any]:
        """Return all workers that have joined, also those that have ended."""
        return list(self._workers.values())

    def save(self, job: Job, state: Any) -> None:
        """Keep a training's checkpoint."""
        self._checkpoints.save(job, state)

    def load(self, job: Job) -> Any:
        """Return a training's last checkpoint; None where there is none."""
        return self._checkpoints.load(job)

    def _end(self, worker: str, job: Job, result: Result) -> None:
        super()._end(worker, job, result)
        self._checkpoints.drop(job)

    def poll(self, skip: int) -> tuple[list[tuple[Job, Result]], Counts]:
        """Return `results` and `counts` at once."""
        return self.results(skip), self.counts()
