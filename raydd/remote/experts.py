"""Experts trained in parallel by Ray actors into a trajectory buffer."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from raydd.config import DataConfig, ExpertConfig
from raydd.data.buffer import create_buffer, finished, refresh_manifest, write_expert
from raydd.data.trajectory import BufferSpec, ExpertTrajectory
from raydd.numerics.flat import layout_of, running_statistics
from raydd.remote.session import Plan, plan, resources
from raydd.runs import load_transform, save_transform
from raydd.training.expert import Snapshot, train_expert
from raydd.workspace import Workspace, open_workspace

POLL_SECONDS = 0.5
ATTEMPTS = 3


class Job(NamedTuple):
    """All that a worker needs to train experts of one buffer."""

    data: DataConfig
    experts: ExpertConfig
    seed: int
    folder: Path
    device: str


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


class Trainer:
    """Trains one expert after another and writes each to the buffer; knows nothing of Ray."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        self._job = job
        self._epoch = 0
        transform = load_transform(job.folder)
        self._work = open_workspace(job.data, job.experts.network, torch.device(job.device), transform)
        self._train = self._work.feed(self._work.dataset.train)
        self._validation = self._work.feed(self._work.dataset.validation)

    def train(self, index: int) -> int:
        """Train expert ``index`` and write its file; the same bytes whoever does it. Returns the index."""
        torch.set_num_threads(1)
        job, snapshots = self._job, []
        for snapshot in train_expert(
            job.experts, self._work.build, self._train, self._validation, self._work.augment, (job.seed, index)
        ):
            snapshots.append(snapshot)
            self._epoch = snapshot.epoch
        write_expert(job.folder, buffer_spec(job, self._work), index, _trajectory(snapshots))
        self._epoch = 0
        return index

    def epoch(self) -> int:
        """Epochs done of the expert in hand."""
        return self._epoch


def _trajectory(snapshots: list[Snapshot]) -> ExpertTrajectory:
    columns = Snapshot(*zip(*snapshots, strict=True))  # type: ignore[arg-type]
    return ExpertTrajectory(
        torch.stack(tuple(columns.theta)),
        torch.stack(tuple(columns.buffers)),
        columns.epoch,  # type: ignore[arg-type]
        columns.accuracy,  # type: ignore[arg-type]
        columns.train_loss,  # type: ignore[arg-type]
    )


def buffer_spec(job: Job, work: Workspace) -> BufferSpec:
    """What the buffer is of; the number of experts is not part of it."""
    network, dataset = work.build(), work.dataset
    recipe = job.experts.model_dump(mode="json", exclude={"num_experts", "network"})
    return BufferSpec(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        preprocessing_hash=work.transform.hash,
        preprocessing=work.transform.metadata(),
        network=work.network,
        channels=dataset.channels,
        size=dataset.size,
        classes=len(dataset.classes),
        layout=layout_of(dict(network.named_parameters())),
        buffer_layout=layout_of(running_statistics(network)),
        recipe=recipe | {"augment": job.data.augment, "validation": job.data.validation},
        seed=job.seed,
    )


def prepare(job: Job) -> tuple[Job, list[int]]:
    """Make or check the buffer's folder, and list the experts that are missing.

    Raises:
        ValueError: The data set or network is unknown, or the folder holds another buffer.
    """
    stored = job.folder / "preprocessing.arrow"
    transform = load_transform(job.folder) if stored.exists() else None
    work = open_workspace(job.data, job.experts.network, torch.device("cpu"), transform)
    spec = buffer_spec(job, work)
    create_buffer(job.folder, spec)
    if transform is None:
        save_transform(job.folder, work.transform)
    missing = sorted(set(range(job.experts.num_experts)) - finished(job.folder, spec))
    return job, missing


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
