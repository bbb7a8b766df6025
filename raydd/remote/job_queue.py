"""The trainings of a matrix: waiting, running, finished and failed ones, and their checkpoints; independent of Ray."""

from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal, NamedTuple

from raydd.evaluation.jobs import Failure, Job, Outcome, Result
from raydd.evaluation.successive_halving import Rungs, SuccessiveHalving

MOST_FAILED = 0.5
FIRST_TRAININGS = 10
"""Trainings that end before their failures can end an evaluation."""

Loss = Literal["memory", "worker", "node"]
"""Why a worker is gone: Ray's memory monitor killed it, its process ended, or its node is lost."""
ATTEMPTS = {"worker": 3, "node": 10}
"""How often a training is started before it counts as failed, by what was lost: it rarely causes a lost node."""


class Counts(NamedTuple):
    """The numbers of trainings that wait for a worker, that wait for a node of their own, and that run."""

    waiting: int
    alone: int
    running: int
    stopped: str  # why no more training starts; empty if they do


class JobQueue:
    """The waiting jobs, the running jobs, and the results.

    A worker that takes a job again has lost its running ones: they run anew, so that no job is lost when a group is
    restarted while workers of the last one still answer. A training that runs out of memory is tried once more alone,
    by a worker that takes such jobs only.

    >>> queue = JobQueue([Job(0, "MLP", 0)])
    >>> queue.take("rank 0"), queue.take("rank 1"), queue.take("rank 0")
    (Job(row=0, network='MLP', seed=0), None, Job(row=0, network='MLP', seed=0))
    >>> queue.fail("rank 0", Job(0, "MLP", 0), "out of memory", memory=True)
    >>> queue.take("rank 0"), queue.take("rank 0", alone=True)
    (None, Job(row=0, network='MLP', seed=0))
    """

    def __init__(self, jobs: Iterable[Job], rungs: Rungs | None = None, most_failed: float = MOST_FAILED) -> None:
        self._waiting, self._alone = deque(jobs), deque[Job]()
        self._tried_alone: dict[Job, str] = {}  # with the reasons
        self._running: dict[str, list[Job]] = {}
        self._results: dict[Job, Result] = {}
        self._losses: Counter[tuple[Job, str]] = Counter()
        self._failed, self._most_failed, self._stopped = 0, most_failed, ""
        self._halving = SuccessiveHalving(rungs.reduction) if rungs else None

    def take(self, worker: str, alone: bool = False) -> Job | None:
        """Return the next job for a worker, or None when none is left; ``alone`` are those that ran out of memory."""
        self._give_back(worker)
        queue = self._alone if alone else self._waiting
        while queue and not self._stopped:
            if (job := queue.popleft()) not in self._results:
                self._running[worker] = [job]
                return job
        return None

    def keep_training(self, job: Job, epoch: int, value: float) -> bool:
        """Return whether a training continues after a rung, by its accuracy there."""
        row, network, seed = job
        return self._halving is None or self._halving.keep_training((row, seed), epoch, network, value)

    def put(self, worker: str, job: Job, outcome: Outcome) -> None:
        """Store a worker's result."""
        self._end(worker, Job(*job), outcome)

    def fail(self, worker: str, job: Job, reason: str, *, memory: bool = False) -> None:
        """Record that a training failed; one that ran out of ``memory`` for the first time is tried once more alone."""
        job = Job(*job)
        if memory and job not in self._tried_alone:
            self._release(worker, job)
            self._try_alone(job, reason)
        else:
            self._end(worker, job, Failure(f"{reason}, also alone" if memory else reason))

    def lose(self, worker: str, loss: Loss, reason: str) -> None:
        """Record that a worker is gone: its training runs anew, unless it was lost too often."""
        for job in [*self._running.get(worker, [])]:
            if loss == "memory":
                self.fail(worker, job, f"out of memory: {reason}", memory=True)
                continue
            self._losses[job, loss] += 1
            times = self._losses[job, loss]
            if times >= ATTEMPTS[loss]:
                self._end(worker, job, Failure(f"its {loss} was lost {times} times: {reason}"))
            elif loss == "worker" and times == ATTEMPTS[loss] - 1 and job not in self._tried_alone:
                self._release(worker, job)  # an operating system that ends processes for memory does not say so
                self._try_alone(job, f"its worker was lost {times} times: {reason}")
        self._give_back(worker)

    def release(self, group: str) -> None:
        """Give back the running jobs of a group that has ended."""
        for worker in [worker for worker in self._running if worker.startswith(f"{group} ")]:
            self._give_back(worker)

    def stop(self, reason: str) -> None:
        """Start no more trainings."""
        self._stopped = self._stopped or reason

    def counts(self) -> Counts:
        """Return how many trainings wait and run."""
        waiting = sum(job not in self._results for job in self._waiting) if self._losses else len(self._waiting)
        return Counts(waiting, len(self._alone), sum(map(len, self._running.values())), self._stopped)

    def results(self, skip: int = 0) -> list[tuple[Job, Result]]:
        """Return the results in order of arrival, without the first ``skip``."""
        return list(islice(self._results.items(), skip, None))

    def reasons(self) -> dict[Job, str]:
        """Return why each job that was to run alone has not run anywhere else."""
        return {job: f"{self._tried_alone[job]}; not tried again alone" for job in self._alone}

    def _end(self, worker: str, job: Job, result: Result) -> None:
        self._release(worker, job)
        if job in self._results:
            return
        self._results[job] = result
        self._failed += isinstance(result, Failure)
        ended = len(self._results)
        if ended >= FIRST_TRAININGS and self._failed > self._most_failed * ended:
            self.stop(f"{self._failed} of the first {ended} trainings failed (--max-failed {self._most_failed:g})")

    def _try_alone(self, job: Job, reason: str) -> None:
        self._tried_alone[job] = reason
        self._alone.append(job)

    def _release(self, worker: str, job: Job) -> None:
        self._running[worker] = [other for other in self._running.get(worker, []) if other != job]

    def _give_back(self, worker: str) -> None:
        for job in self._running.pop(worker, []):
            if job not in self._results:
                (self._alone if job in self._tried_alone else self._waiting).appendleft(job)


class Checkpoints:
    """The last checkpoint of every running training, by ``put`` and ``get`` of the place that holds them."""

    def __init__(self, put: Any, get: Any) -> None:
        self._put, self._get, self._held = put, get, dict[Job, Any]()

    def save(self, job: Job, state: Any) -> None:
        """Replace a training's checkpoint."""
        self._held[Job(*job)] = self._put(state)

    def load(self, job: Job) -> Any:
        """Return a training's checkpoint; None where there is none."""
        return None if (held := self._held.get(Job(*job))) is None else self._get(held)

    def drop(self, job: Job) -> None:
        """Forget the checkpoint of a training that ended."""
        self._held.pop(Job(*job), None)
