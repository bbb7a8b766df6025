"""The worker that runs a distillation on Ray, with those that compute parts of its steps beside it."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import ray

from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.io.files import sweep
from raydd.io.memory import keep_memory
from raydd.io.paths import default_cache
from raydd.io.private import private_folder
from raydd.remote.buffer_copy import BufferCopy
from raydd.remote.demand import Demand, worker_device
from raydd.remote.rollouts import RolloutPool
from raydd.run.callbacks import follow
from raydd.run.distillation import begin, conclude, prepare
from raydd.run.events import EventScreen
from raydd.run.resolve import BufferRequest, resolve
from raydd.run.run import Run
from raydd.run.run_folder import read_config
from raydd.run.storage import RunStorage, kind_of, open_storage, public_errors
from raydd.run.streamed_folder import FilePart, StreamedFolder, write_files

QUEUED = 16  # events; then the run waits for the driver
ANSWER_SECONDS, ANSWER_BYTES = 1.0, 32 << 20


class DistillationJob(NamedTuple):
    """A distillation for a worker anywhere on a cluster."""

    config: DistillConfig
    uri: str | None  # where the run is kept; None sends its files to the driver
    name: str  # what messages call its storage
    resume: bool
    buffer: BufferCopy | str | None  # experts, a URI or for any node
    trained: bool  # the experts are those of the cache, not a named buffer
    threads: int  # of a run whose settings and checkpoint name none
    demand: Demand  # of each worker
    helpers: int  # workers that compute parts of the steps beside the one that runs it
    local: bool  # whether all workers are on one machine
    owner: str  # of the claim at the URI, for all workers of this command
    pictures: bool  # whether the driver draws


class Saved(NamedTuple):
    """The checkpoint of an outer step is at the run's storage."""

    step: int


class Ended(NamedTuple):
    """The end of a run: its set, or an error."""

    synset: SyntheticSet | None = None
    kind: type[Exception] = RuntimeError
    message: str = ""

    def result(self) -> SyntheticSet:
        """Return the set, or raise the error."""
        if self.synset is None:
            raise self.kind(self.message)
        return self.synset


class DistillationActor:
    """Runs one distillation in a thread, and answers with its events."""

    def __init__(self, job: DistillationJob, files: Mapping[str, bytes] | None) -> None:
        keep_memory()
        self._job, self._files = job, files
        self._events: Queue[Any] = Queue(QUEUED)
        self._screen = EventScreen(self._events.put, job.pictures)

    def start(self) -> str:
        """Begin the run, and return this node's identifier."""
        threading.Thread(target=self._run, name="distillation", daemon=True).start()
        return str(ray.get_runtime_context().get_node_id())

    def poll(self) -> list[Any]:
        """Return the next events, after a second at the latest."""
        events, size = list[Any](), 0
        with suppress(Empty):
            while size < ANSWER_BYTES:
                event = self._events.get(timeout=0.0 if events else ANSWER_SECONDS)
                size += len(event.data) if isinstance(event, FilePart) else 0
                events.append(event)
        return events

    def _run(self) -> None:
        try:
            with self._storage() as storage:
                self._screen.public = storage.public
                end = Ended(self._distill(storage))
        except Exception as error:  # of any type; the driver raises it again
            end = Ended(None, kind_of(error), str(error) or type(error).__name__)
        self._events.put(end)

    def _distill(self, storage: RunStorage) -> SyntheticSet:
        job, device = self._job, worker_device(self._job.demand)
        before = read_config(storage.folder)
        threads = job.config.threads or (before.threads if before else None) or job.threads
        config = job.config.model_copy(update={"threads": threads})
        named = job.buffer.folder() if isinstance(job.buffer, BufferCopy) else job.buffer
        request = BufferRequest(lambda config, work: _cached(named), None if job.trained else named)
        context = resolve(config, storage.folder, request, device, resume=job.resume, note=self._screen.note)
        context, need = prepare(context, self._screen, 1 + job.helpers if job.local else 1)
        with ExitStack() as stack:
            start_workers = None
            if job.helpers:
                start_workers = stack.enter_context(RolloutPool(job.helpers, job.demand, self._screen.note)).start
            with self._screen.doing("preparing the run"):
                run = Run(context, start_workers)
            begin(run, need, storage, self._screen)
            follow(run, self._screen, storage.save)
        return conclude(storage)

    @contextmanager
    def _storage(self) -> Iterator[RunStorage]:
        if self._job.uri is not None:
            with open_storage(self._job.uri, "raydd distill", self._screen.note, self._job.owner) as storage:
                storage.on_saved = self._tell_saved
                yield storage
            return
        with private_folder(default_cache() / "work") as private:
            folder = private / "run"
            folder.mkdir()
            write_files(folder, self._files or {})
            self._files = None
            streamed = StreamedFolder(folder, self._events.put)

            def commit() -> None:
                sweep(folder)
                streamed.send()

            storage = RunStorage(folder, self._job.name, commit, self._screen.note, on_saved=self._tell_saved)
            with public_errors(storage):
                yield storage

    def _tell_saved(self, step: int) -> None:
        self._events.put(Saved(step))


def _cached(named: Path | str | None) -> Path:
    assert isinstance(named, Path)
    return named
