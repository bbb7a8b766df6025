"""The workers of a run of experts: who has what in hand, who was lost, and what is done about it."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from raydd.buffer.expert_file import expert_path
from raydd.buffer.expert_writer import ExpertWriter
from raydd.buffer.upload import Entry
from raydd.io.files import remove_temporaries, temporary_path
from raydd.training import expert_worker as experts
from raydd.training.expert_worker import Given, Job, Part

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 300.0
SAID_SECONDS = 60.0
AHEAD = 2  # calls that wait at a worker, so that it never waits for the driver
ATTEMPTS = {"worker": 3, "node": 10}
"""How often an expert is begun before the run gives up, by what was lost: a lost node is seldom its fault."""
LOST = {"worker": "died: replaced, trained anew", "node": "is lost: trained anew elsewhere"}


class Needs(NamedTuple):
    """What a crew is made of.

    Attributes:
        workers: How many; those that find no room wait for it.
        cpus: CPUs a worker.
        gpus: GPUs a worker.
        patience_seconds: How long there may be no worker at all.
    """

    workers: int
    cpus: int
    gpus: float
    patience_seconds: float = PATIENCE_SECONDS


class Trainer(experts.Trainer):
    """A trainer that knows which node it is on."""

    def start(self, path: Path, content: str) -> tuple[str, str, bool]:
        """Its node, who writes its temporary files, and whether it sees the file; see `look`."""
        return ray.get_runtime_context().get_node_id(), *self.look(path, content)


@dataclass(eq=False)
class _Worker:
    """An actor and what it has in hand.

    Attributes:
        actor: Its handle.
        calls: What it was asked and has not answered, oldest first.
        node: Where it is; empty until it has started.
        name: By which its temporary files are known.
        stream: Whether it sends what it trains, since it does not see the folder.
        index: The expert in hand; -1 for none.
        epoch: Epochs trained of that.
        spool: Where the expert is written, when the worker sends it.
    """

    actor: Any
    calls: list[Any] = field(default_factory=list)
    node: str = ""
    name: str = ""
    stream: bool = False
    index: int = -1
    epoch: int = 0
    spool: ExpertWriter | None = None


class Crew:
    """Trains experts on the connected Ray, on as many workers as there is room for.

    A worker that sees the buffer's folder writes there itself; any other sends its snapshots, which are written
    here. Of a buffer in a store each worker puts its experts there. One that is lost, with its node or without, is
    replaced as soon as there is room.

    Args:
        job: What is trained.
        given: The buffer's preprocessing and spec.
        needs: How many workers, and what each needs.

    Attributes:
        entries: Of a buffer in a store, the manifest's words on the experts that workers have put there.
    """

    def __init__(self, job: Job, given: Given, needs: Needs) -> None:
        self._job, self._given, self._needs = job, given, needs
        self.entries: list[Entry] = []
        self._workers: list[_Worker] = []
        self._attempts: dict[tuple[int, str], int] = {}
        self._queue: list[int] = []
        self._starts_lost, self._seen, self._waiting, self._note = 0, time.monotonic(), False, ""

    def train(self, missing: list[int]) -> Iterator[int]:
        """Train experts, yielding how many are finished, again and again.

        Raises:
            RuntimeError: An expert failed, or there is no node for a worker; those finished are kept.
        """
        self._queue, done, self._seen = list(missing), 0, time.monotonic()
        with _token(self._job.folder) as token, self._staff(token) as hire:
            while done < len(missing):
                busy = sum(worker.index >= 0 for worker in self._workers)
                for _ in range(min(self._needs.workers, busy + len(self._queue)) - len(self._workers)):
                    hire()
                first = {worker.calls[0]: worker for worker in self._workers}
                ready, _ = ray.wait(list(first), timeout=POLL_SECONDS)
                for reference in ready:
                    done += self._answered(first[reference])
                self._check_patience()
                yield done

    def epochs(self) -> int:
        """Epochs trained of the experts in hand."""
        return sum(worker.epoch for worker in self._workers)

    def take_note(self) -> str:
        """What there is to be said since the last call."""
        note, self._note = self._note, ""
        return note

    @contextmanager
    def _staff(self, token: tuple[Path, str]) -> Iterator[Callable[[], None]]:
        """Gives what starts a worker; in the end nothing of any worker is left."""
        make = ray.remote(Trainer).options(
            num_cpus=self._needs.cpus, num_gpus=self._needs.gpus, max_restarts=0, max_task_retries=0
        )
        job, given = ray.put(self._job), ray.put(self._given)

        def hire() -> None:
            actor = make.remote(job, given)
            self._workers.append(_Worker(actor, [actor.start.remote(*token)]))

        try:
            yield hire
        finally:
            for worker in [*self._workers]:
                self._dismiss(worker)

    def _answered(self, worker: _Worker) -> int:
        """Take a worker's answer; 1 for an expert that is finished, else 0."""
        self._workers.remove(worker)
        self._workers.append(worker)  # whoever waits longest is heard first
        try:
            answer = ray.get(worker.calls[0])
        except RayTaskError as error:
            if worker.index < 0:
                raise RuntimeError(f"a worker could not start: {_last_line(error)}") from error
            raise RuntimeError(f"expert {worker.index} failed: {error.cause}") from error
        except RayError as error:
            self._lost(worker, error)
            return 0
        del worker.calls[0]
        if worker.index >= 0:
            return self._took(worker, answer)
        worker.node, worker.name, sees = answer
        worker.stream = not sees and self._given.uri is None
        self._starts_lost = 0
        self._assign(worker)
        return 0

    def _assign(self, worker: _Worker) -> None:
        """Give a worker the next expert, or let it go."""
        worker.index, worker.epoch = -1, 0
        if not self._queue:
            self._dismiss(worker)
            return
        worker.index = self._queue.pop(0)
        if worker.stream:
            worker.spool = ExpertWriter(self._job.folder, self._given.spec, worker.index)
        worker.calls = [self._more(worker) for _ in range(AHEAD)]

    def _more(self, worker: _Worker) -> Any:
        return worker.actor.more.remote(worker.index, worker.stream)

    def _took(self, worker: _Worker, part: Part) -> int:
        worker.epoch = part.epoch
        if worker.spool is not None:
            for piece in part.pieces:
                worker.spool.add(piece)
        if not part.ended:
            worker.calls.append(self._more(worker))
            return 0
        if part.entry is not None:
            self.entries.append(part.entry)
        else:
            self._check_written(worker)
        self._assign(worker)
        return 1

    def _check_written(self, worker: _Worker) -> None:
        path = expert_path(self._job.folder, worker.index)
        if worker.spool is not None:
            if not path.exists():  # another run may have finished it meanwhile
                worker.spool.finish()
            worker.spool.close()
            worker.spool = None
        if not path.exists():
            raise RuntimeError(f"{path} is not there, although a worker wrote it: is the folder still the same disk?")

    def _lost(self, worker: _Worker, error: RayError) -> None:
        """A worker is gone: put its expert back in the queue's front."""
        index, self._seen = worker.index, time.monotonic()
        self._dismiss(worker)
        if isinstance(error, ActorDiedError) and error.actor_init_failed:
            raise RuntimeError(f"a worker could not start: {_last_line(error)}") from error
        if index < 0:
            self._starts_lost += 1
            if self._starts_lost >= ATTEMPTS["node"]:
                raise RuntimeError(f"{self._starts_lost} workers died as they started: {_last_line(error)}") from error
            return
        kind = "worker" if worker.node in _alive() else "node"
        count = self._attempts[index, kind] = self._attempts.get((index, kind), 0) + 1
        if count >= ATTEMPTS[kind]:
            raise RuntimeError(
                f"expert {index}: its {kind} died {count} times; is there memory enough? "
                "finished experts are kept, the same command goes on"
            ) from error
        self._tell(f"the {kind} of expert {index} {LOST[kind]}")
        self._queue.insert(0, index)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        ray.kill(worker.actor)
        if worker.spool is not None:
            worker.spool.close()
        if worker.name and not worker.stream:
            remove_temporaries(self._job.folder, worker.name)

    def _tell(self, said: str) -> None:
        self._note = f"{self._note}; {said}" if self._note else said

    def _check_patience(self) -> None:
        now, patience = time.monotonic(), self._needs.patience_seconds
        if any(worker.node for worker in self._workers):
            self._seen, self._waiting = now, False
        elif now - self._seen > patience:
            raise RuntimeError(
                f"no node has had room for a worker for {patience:.0f} s: add a node, or end other work; "
                "finished experts are kept, the same command goes on"
            )
        elif now - self._seen > SAID_SECONDS and not self._waiting:
            self._tell(f"no worker has started for {SAID_SECONDS:.0f} s: waiting for room, up to {patience:.0f} s")
            self._waiting = True


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@contextmanager
def _token(folder: Path) -> Iterator[tuple[Path, str]]:
    """A file that is in the folder for as long, and what it holds: who reads that sees the folder."""
    path, content = temporary_path(folder / "token"), secrets.token_hex(16)
    path.write_text(content)
    try:
        yield path, content
    finally:
        path.unlink(missing_ok=True)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
