"""A pool of Ray actors that train experts: assigns experts to workers and replaces workers that are lost."""

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from raydd.buffer.expert_file import expert_path
from raydd.buffer.expert_writer import ExpertWriter
from raydd.buffer.upload import Entry
from raydd.config.placement import HERE, Where
from raydd.io.files import remove_temporaries, temporary_path
from raydd.remote.demand import Demand, Plan, Waiting, plan, worker_device
from raydd.training.expert_worker import BufferInfo, ExpertChunk, ExpertJob, ExpertTrainer

POLL_SECONDS, PLAN_SECONDS = 0.5, 30.0
QUEUED_CALLS = 2  # per worker, so that it never waits for the driver
ATTEMPTS = {"worker": 3, "node": 10}
"""How often an expert is started before the run fails, by what was lost: the expert rarely causes a lost node."""
LOST = {"worker": "died: the expert is trained again", "node": "is lost: the expert is trained again elsewhere"}


class ExpertActor(ExpertTrainer):
    """A trainer in a Ray actor."""

    def __init__(self, job: ExpertJob, info: BufferInfo, demand: Demand) -> None:
        super().__init__(job._replace(device=worker_device(demand).type), info)

    def start(self, path: Path, content: str) -> tuple[str, str, bool]:
        """Return its node, the name in its temporary files, and whether it has the folder; see `check_folder`."""
        return ray.get_runtime_context().get_node_id(), *self.check_folder(path, content)


@dataclass(eq=False)
class _Worker:
    """An actor and its current expert."""

    actor: Any
    calls: list[Any] = field(default_factory=list)  # pending, oldest first
    node: str = ""  # empty until it has started
    name: str = ""  # in its temporary files
    stream: bool = False  # sends its snapshots, because it does not have the folder
    index: int = -1  # its expert
    epoch: int = 0
    writer: ExpertWriter | None = None  # of an expert that the worker sends


class ExpertPool:
    """Trains experts on the connected Ray, on the planned workers as soon as it has resources for them.

    A worker that has the buffer's folder writes there; any other sends its snapshots, which are written here. If the
    buffer is in remote storage, each worker uploads its experts. A lost worker is replaced as soon as there are
    resources.
    """

    def __init__(self, job: ExpertJob, info: BufferInfo, layout: Plan, where: Where = HERE) -> None:
        self._job, self._info, self._size, self._demand = job, info, layout.workers, layout.demand
        self._waiting = Waiting(layout.demand, layout.workers, self._add_note, where.max_wait)
        self._grows = where.address is not None and where.num_workers is None
        self._planned = monotonic()
        self.entries: list[Entry] = []  # of the manifest, for experts that workers have uploaded
        self._workers: list[_Worker] = []
        self._attempts: dict[tuple[int, str], int] = {}
        self._queue: list[int] = []
        self._failed_starts, self._note = 0, ""

    def train(self, missing: list[int]) -> Iterator[int]:
        """Train experts and yield the number of finished ones after every wait."""
        self._queue, done = list(missing), 0
        options = self._demand.options | {"max_restarts": 0, "max_task_retries": 0}
        job, info = ray.put(self._job), ray.put(self._info)
        with _token(self._job.folder) as token, closing(self):
            while done < len(missing):
                for _ in range(self._wanted() - len(self._workers)):
                    actor = ray.remote(ExpertActor).options(**options).remote(job, info, self._demand)
                    self._workers.append(_Worker(actor, [actor.start.remote(*token)]))
                first = {worker.calls[0]: worker for worker in self._workers}
                ready, _ = ray.wait(list(first), timeout=POLL_SECONDS)
                for reference in ready:
                    done += self._receive(first[reference])
                if done < len(missing):
                    self._waiting.check(sum(bool(worker.node) for worker in self._workers), self._wanted())
                yield done

    def _wanted(self) -> int:
        """Return how many workers have work; by default also those that fit on nodes which have joined meanwhile."""
        unfinished = sum(worker.index >= 0 for worker in self._workers) + len(self._queue)
        if self._grows and monotonic() - self._planned > PLAN_SECONDS:
            self._size = max(self._size, plan(self._demand, None, unfinished).workers)
            self._planned = monotonic()
        return min(self._size, unfinished)

    def epochs(self) -> int:
        """Return the epochs trained of the current experts."""
        return sum(worker.epoch for worker in self._workers)

    def take_note(self) -> str:
        """Return the notes since the last call, in one line."""
        note, self._note = self._note, ""
        return note

    def close(self) -> None:
        """Remove all workers."""
        for worker in [*self._workers]:
            self._remove(worker)

    def _receive(self, worker: _Worker) -> int:
        """Process a worker's answer; return 1 if an expert is finished, else 0."""
        self._workers.remove(worker)
        self._workers.append(worker)  # the worker that waits longest comes first
        try:
            answer = ray.get(worker.calls[0])
        except RayTaskError as error:
            if worker.index < 0:
                raise RuntimeError(f"a worker could not start: {_last_line(error)}") from error
            raise RuntimeError(f"expert {worker.index} failed: {error.cause}") from error
        except RayError as error:
            self._handle_loss(worker, error)
            return 0
        del worker.calls[0]
        if worker.index >= 0:
            return self._receive_chunk(worker, answer)
        worker.node, worker.name, has_folder = answer
        worker.stream = not has_folder and self._info.uri is None
        self._failed_starts = 0
        self._assign(worker)
        return 0

    def _assign(self, worker: _Worker) -> None:
        """Assign the next expert to a worker, or remove the worker."""
        worker.index, worker.epoch = -1, 0
        if not self._queue:
            self._remove(worker)
            return
        worker.index = self._queue.pop(0)
        if worker.stream:
            worker.writer = ExpertWriter(self._job.folder, self._info.spec, worker.index)
        worker.calls = [self._train_chunk(worker) for _ in range(QUEUED_CALLS)]

    def _train_chunk(self, worker: _Worker) -> Any:
        return worker.actor.train_chunk.remote(worker.index, worker.stream)

    def _receive_chunk(self, worker: _Worker, chunk: ExpertChunk) -> int:
        worker.epoch = chunk.epoch
        if worker.writer is not None:
            for piece in chunk.pieces:
                worker.writer.add(piece)
        if not chunk.ended:
            worker.calls.append(self._train_chunk(worker))
            return 0
        if chunk.entry is not None:
            self.entries.append(chunk.entry)
        else:
            self._check_written(worker)
        self._assign(worker)
        return 1

    def _check_written(self, worker: _Worker) -> None:
        path = expert_path(self._job.folder, worker.index)
        if worker.writer is not None:
            if not path.exists():  # another run may have finished it meanwhile
                worker.writer.finish()
            worker.writer.close()
            worker.writer = None
        if not path.exists():
            raise RuntimeError(
                f"{path} is missing although a worker wrote it; check that all nodes mount the same disk"
            )

    def _handle_loss(self, worker: _Worker, error: RayError) -> None:
        """Put the expert of a lost worker back to the front of the queue."""
        index = worker.index
        self._remove(worker)
        if isinstance(error, ActorDiedError) and error.actor_init_failed:
            raise RuntimeError(f"a worker could not start: {_last_line(error)}") from error
        if index < 0:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS["node"]:
                raise RuntimeError(f"{self._failed_starts} workers died at their start: {_last_line(error)}") from error
            return
        kind = "worker" if worker.node in _alive_nodes() else "node"
        count = self._attempts[index, kind] = self._attempts.get((index, kind), 0) + 1
        if count >= ATTEMPTS[kind]:
            raise RuntimeError(
                f"expert {index}: its {kind} died {count} times; check that it has enough memory. "
                "Finished experts are kept; the same command continues"
            ) from error
        self._add_note(f"the {kind} of expert {index} {LOST[kind]}")
        self._queue.insert(0, index)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        ray.kill(worker.actor)
        if worker.writer is not None:
            worker.writer.close()
        if worker.name and not worker.stream:
            remove_temporaries(self._job.folder, worker.name)

    def _add_note(self, note: str) -> None:
        self._note = f"{self._note}; {note}" if self._note else note


def _alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@contextmanager
def _token(folder: Path) -> Iterator[tuple[Path, str]]:
    """Write a temporary file into the folder and yield its path and content, by which workers recognise the folder."""
    path, content = temporary_path(folder / "token"), secrets.token_hex(16)
    path.write_text(content)
    try:
        yield path, content
    finally:
        path.unlink(missing_ok=True)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
