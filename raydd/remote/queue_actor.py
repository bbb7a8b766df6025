"""The queue of a matrix's trainings in an actor; it loads neither PyTorch nor Ray Train, and so starts at once."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ray

from raydd.evaluation.jobs import Job, Outcome, Result
from raydd.remote.job_queue import Checkpoints, Counts, JobQueue


class Given(NamedTuple):
    """What a queue was given: a list of one reference to what `store_sets` returned, empty before the first trainings.

    ``complete`` says that no trainings follow, of this matrix or another.
    """

    matrix: list[Any]
    complete: bool


class QueueActor(JobQueue):
    """The queue in an actor, with its workers and the checkpoints of running trainings in the object store."""

    def __init__(self) -> None:
        super().__init__([])
        self._checkpoints, self._workers = Checkpoints(ray.put, ray.get), dict[str, Any]()
        self._given = Given([], complete=False)
        self._most_running: int | None = None

    def begin(
        self,
        matrix: list[Any],
        known: Mapping[Job, Outcome],
        *arguments: Any,
        most_running: int | None = None,
        keep: bool = False,
    ) -> None:
        """Take the trainings, see `JobQueue`.

        Args:
            matrix: A list of one reference: what `store_sets` returned.
            known: Trainings that do not run; they count at the rungs.
            arguments: Those of a `JobQueue`.
            most_running: None where these are all trainings; else others follow by `complete`, and until then this many
                run at a time.
            keep: Whether the workers wait for another matrix afterwards.
        """
        super().__init__(*arguments)
        self._checkpoints = Checkpoints(ray.put, ray.get)
        for job, outcome in known.items():
            for epoch, value in outcome.curve:
                self.keep_training(job, epoch, value)
        self._given, self._most_running = Given(matrix, complete=most_running is None and not keep), most_running

    def complete(self, matrix: list[Any], jobs: Sequence[Job]) -> None:
        """Add the last trainings; ``matrix`` refers to the sets of these and of all before."""
        self._waiting.extend(jobs)
        self._given, self._most_running = Given(matrix, complete=True), None

    def given(self) -> "Given":
        """Return where the sets of the trainings are, and whether these are all."""
        return self._given

    def take(self, worker: str, alone: bool = False) -> Job | None:
        """Return the next job for a worker; None when none is left, or as many run as may."""
        others = sum(len(jobs) for name, jobs in self._running.items() if name != worker)
        if self._most_running is not None and others >= self._most_running:
            return None
        return super().take(worker, alone)

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
