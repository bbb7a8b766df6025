"""Experts trained in parallel by Ray actors into a trajectory buffer."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayActorError, RayTaskError

from raydd.data.buffer import expert_path, refresh_manifest
from raydd.experts import Job, Trainer, buffer_spec, prepare
from raydd.remote.session import Plan, plan, resources

__all__ = ["Job", "Progress", "Trainer", "buffer_spec", "prepare", "train_missing"]

POLL_SECONDS = 0.5
ATTEMPTS = 3


class Progress(NamedTuple):
    """Where a run of experts stands.

    Attributes:
        done: Experts finished, those found at the start included.
        total: Experts wanted.
        epochs: Epochs trained in this run.
        epochs_total: Epochs this run has to train.
        seconds: Since the start of the run.
        note: Something worth a line, or empty.
    """

    done: int
    total: int
    epochs: int
    epochs_total: int
    seconds: float
    note: str = ""

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the epochs so far; None before the first."""
        return self.seconds / self.epochs * (self.epochs_total - self.epochs) if self.epochs else None


def train_missing(job: Job, missing: list[int], num_workers: int | None) -> Iterator[Progress]:
    """Train the missing experts on the connected Ray, yielding progress; then rewrite the manifest.

    A worker that dies is replaced and its expert trained anew, to the same bytes.

    Raises:
        RuntimeError: An expert failed `ATTEMPTS` times, or its training raised; finished experts stay.
    """
    if missing:
        cpus, gpus = resources()
        layout = plan(num_workers, len(missing), cpus, gpus if job.device == "cuda" else 0)
        yield from _Crew(job, layout).work(missing)
    refresh_manifest(job.folder)


class _Crew:
    """Actors, what each has in hand, and how often each expert was tried."""

    def __init__(self, job: Job, layout: Plan) -> None:
        self._job, self._layout = job, layout
        # Two calls at once, so that a worker can tell its epoch while it trains.
        options: dict[str, Any] = {"num_cpus": layout.cpus, "num_gpus": layout.gpus, "max_concurrency": 2}
        self._make: Callable[[], Any] = lambda: ray.remote(Trainer).options(**options).remote(job)
        self._running: dict[Any, tuple[Any, int]] = {}
        self._attempts: dict[int, int] = {}
        self._replaced = ""

    def work(self, missing: list[int]) -> Iterator[Progress]:
        start, queue = time.monotonic(), list(missing)
        total, epochs = self._job.experts.num_experts, self._job.experts.epochs
        done = found = total - len(missing)
        yield Progress(done, total, 0, len(missing) * epochs, 0.0, self._layout.note)
        try:
            for _ in range(self._layout.workers):
                self._assign(self._make(), queue)
            while self._running:
                ready, _ = ray.wait(list(self._running), timeout=POLL_SECONDS)
                for reference in ready:
                    done += self._collect(reference, queue)
                trained = (done - found) * epochs + (0 if ready else self._epochs_in_hand())
                seconds, note, self._replaced = time.monotonic() - start, self._replaced, ""
                yield Progress(done, total, trained, len(missing) * epochs, seconds, note)
        finally:
            for actor, _ in self._running.values():
                ray.kill(actor)

    def _assign(self, actor: Any, queue: list[int]) -> None:
        if queue:
            index = queue.pop(0)
            self._attempts[index] = self._attempts.get(index, 0) + 1
            self._running[actor.train.remote(index)] = (actor, index)
        else:
            ray.kill(actor)

    def _collect(self, reference: Any, queue: list[int]) -> int:
        """Take a finished call's result and give its actor more; 1 for an expert, 0 for a failure."""
        actor, index = self._running.pop(reference)
        try:
            ray.get(reference)
        except RayActorError as error:
            if "creation task" in str(error):
                raise RuntimeError(f"a worker could not start: {_last_line(error)}") from error
            if self._attempts[index] >= ATTEMPTS:
                raise RuntimeError(
                    f"expert {index}: its worker died {ATTEMPTS} times; is there memory enough? "
                    "finished experts are kept, the same command goes on"
                ) from error
            self._replaced = f"the worker of expert {index} died: replaced, trained anew"
            queue.insert(0, index)
            self._assign(self._make(), queue)
            return 0
        except RayTaskError as error:
            raise RuntimeError(f"expert {index} failed: {error.cause}") from error
        if not expert_path(self._job.folder, index).exists():
            raise RuntimeError(f"expert {index} was written elsewhere: {self._job.folder} must be on every node's disk")
        self._assign(actor, queue)
        return 1

    def _epochs_in_hand(self) -> int:
        calls = [actor.epoch.remote() for actor, _ in self._running.values()]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0.2)
        total = 0
        for call in ready:
            try:
                total += int(ray.get(call))
            except RayActorError:
                continue
        return total


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
