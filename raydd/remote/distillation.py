"""A distillation on Ray: one actor runs it, and the driver shows its progress and replaces it if it dies.

The actor works in a folder of its own node. It saves each checkpoint to the run's URI, or sends it to the driver, which
writes it into the run's folder. So no node needs another one's disk, and another node can go on from the checkpoint.
Where a step has several parts, the actor has further workers that compute parts beside it; they end with it.
"""

import os
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import with_absolute_path
from raydd.io.console import Screen, clock
from raydd.io.filesystem import open_store
from raydd.io.lock import alone
from raydd.io.uri import is_uri, public_uri
from raydd.remote.buffer_copy import BufferCopy, buffer_copy
from raydd.remote.demand import WORKERS_PER_GPU, Demand, Plan, Waiting, capacity, demand_for, node_shapes, plan
from raydd.remote.distillation_actor import DistillationActor, DistillationJob, Ended, Saved
from raydd.remote.session import session
from raydd.run.events import Replay
from raydd.run.resolve import check_names, check_settings, needs_experts
from raydd.run.rollout_worker import concurrent_parts
from raydd.run.run_folder import previous_run
from raydd.run.streamed_folder import FileGone, FilePart, ReceivedFolder, read_files

DEATHS = 5
"""How often the worker may die without a new checkpoint until the run fails."""
FIRST_NOTE_SECONDS, NOTE_SECONDS, SILENT_SECONDS = 3.0, 30.0, 10.0
"""How long to wait for a node."""
PAUSE_SECONDS = 1.0
_POLL_SECONDS = 0.5

Steps = Generator[Any, None, SyntheticSet]
Train = Callable[[DistillConfig], Path]
"""Completes the cache's buffer of a run, and returns its folder."""


class Request(NamedTuple):
    """What a user asks for: a run, its storage, its experts, and where the work is done."""

    config: DistillConfig
    out: Path | str
    buffer: Path | str | None
    resume: bool
    where: Where


def distill_on_ray(request: Request, screen: Screen, train: Train) -> SyntheticSet:
    """Distill on the cluster of ``where.address``, or on a local Ray; see `raydd.api.distill.distill`."""
    steps = distill_in_steps(request, screen, train)
    while True:
        try:
            wait_for([next(steps)])
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def wait_for(calls: Sequence[Any]) -> None:
    """Wait until one of the pending calls has ended, for `_POLL_SECONDS` at most."""
    if known := [call for call in calls if call is not None]:
        ray.wait(known, timeout=_POLL_SECONDS)
    else:
        time.sleep(_POLL_SECONDS)


def distill_in_steps(request: Request, screen: Screen, train: Train) -> Steps:
    """Distill as `distill_on_ray` does, but yield in place of every wait: several distillations can take turns.

    What is yielded is a pending call, or None: there is nothing to do before it ends, or some time has passed. The set
    is the value of the generator. Each generator needs a context of its own (`contextvars.copy_context`).
    """
    request = request._replace(config=with_absolute_path(request.config))
    check_names(request.config)
    if request.buffer is None:
        check_settings(request.config)
    store = open_store(os.fspath(request.out)) if is_uri(request.out) else None
    folder = Path(request.out) if store is None else store.local
    with ExitStack() as stack:
        before = None
        if folder is not None:
            stack.enter_context(alone(folder, "raydd distill", screen.note))
            before = previous_run(folder, request.resume)
        stack.enter_context(session(request.where.address, screen.note))
        threads, layout = _layout(request, before, screen.note)
        experts = _experts(request, screen, train)
        job = DistillationJob(
            config=request.config,
            uri=None if folder is not None else os.fspath(request.out),
            name=public_uri(os.fspath(request.out)).partition("?")[0],
            resume=request.resume,
            buffer=experts,
            trained=request.buffer is None,
            threads=threads,
            demand=layout.demand,
            helpers=layout.workers - 1,
            local=request.where.address is None,
            owner=secrets.token_hex(8),
            pictures=screen.draws,
        )
        return (yield from _Driver(job, folder, screen, request.where.max_wait).run())


def _layout(request: Request, before: DistillConfig | None, note: Callable[[str], None]) -> tuple[int, Plan]:
    """Return the CPU threads of a run that asks for none, and its workers.

    One thread on a GPU, or where a step has several parts, which are spread over CPUs; else all CPUs of the smallest
    node.
    """
    config, where, parts = request.config, request.where, concurrent_parts(request.config)
    wanted = partial(demand_for, where.device, gpus=where.gpus_per_worker, note=note, minutes=where.max_wait)
    gpus, usual = wanted().gpus, 1
    if not gpus and parts == 1:
        cpus = [int(shape.resources.get("CPU", 0)) for shape in node_shapes() if shape.nodes]
        usual = min((count for count in cpus if count), default=1)
    threads = config.threads or (before.threads if before else None) or usual
    if parts == 1:
        return usual, Plan(1, wanted(cpus=threads))
    share = _even_share(min(where.num_workers or parts, parts), threads)
    layout = plan(wanted(cpus=threads, default_gpus=share), where.num_workers, parts, grows=where.address is not None)
    if layout.note:
        note(layout.note)
    return usual, layout


def _even_share(workers: int, cpus: int) -> float:
    """Return GPUs a worker: the largest 1 / k, k up to `WORKERS_PER_GPU`, with which the cluster has room for all."""
    shapes = node_shapes()
    shares = (1 / k for k in range(1, WORKERS_PER_GPU))
    return next((share for share in shares if capacity(Demand(cpus, share), shapes) >= workers), 1 / WORKERS_PER_GPU)


def _experts(request: Request, screen: Screen, train: Train) -> BufferCopy | str | None:
    """Return the buffer for the worker: a URI as it is, a folder as something that any node can open."""
    if request.buffer is not None and is_uri(request.buffer):
        local = open_store(os.fspath(request.buffer)).local
        if local is None:
            return os.fspath(request.buffer)
        folder = local
    elif request.buffer is not None:
        folder = Path(request.buffer)
    elif needs_experts(request.config):
        folder = train(request.config)
    else:
        return None
    copy, note = buffer_copy(folder)
    screen.note(note)
    return copy


class _Lost(Exception):
    """The worker or its node died."""


class _Driver:
    """Starts the worker of a run, shows what it does, and starts another one when it dies."""

    def __init__(self, job: DistillationJob, folder: Path | None, screen: Screen, max_wait: float) -> None:
        self._job, self._folder, self._screen, self._max_wait = job, folder, screen, max_wait
        self._received = None if folder is None else ReceivedFolder(folder)
        self._node, self._saved, self._deaths = "", -1, 0

    def run(self) -> Steps:
        """Return the set; its files are in the run's storage. Yield pending calls, see `distill_in_steps`."""
        with self._screen.doing(f"waiting for a worker with {self._job.demand.words()}"):
            while True:
                try:
                    with self._actor() as actor:
                        return (yield from self._follow(actor))
                except _Lost as error:
                    end = time.monotonic() + self._count(error)
                while time.monotonic() < end:
                    yield None

    @contextmanager
    def _actor(self) -> Any:
        files = None if self._folder is None else ray.put(read_files(self._folder))
        options = self._job.demand.options | {"max_restarts": 0, "max_task_retries": 0}
        actor = ray.remote(DistillationActor).options(**options).remote(self._job, files)
        try:
            yield actor
        finally:
            ray.kill(actor)

    def _follow(self, actor: Any) -> Steps:
        replay = Replay(self._screen)
        try:
            many = f"{1 + self._job.helpers} workers, each" if self._job.helpers else "a worker"
            self._screen.note(f"{self._job.name}: starting {many} with {self._job.demand.words()}")
            waiting = Waiting(self._job.demand, 1, self._screen.note, self._max_wait)
            start = actor.start.remote()
            self._node = yield from self._wait(start, lambda seconds: waiting.check(0), 0.0, pause=0.0)
            quiet, due = time.monotonic(), FIRST_NOTE_SECONDS
            while True:
                events = yield from self._wait(actor.poll.remote(), self._note_silence, SILENT_SECONDS)
                if events or replay.watches:
                    quiet, due = time.monotonic(), FIRST_NOTE_SECONDS
                elif (waited := time.monotonic() - quiet) > due:
                    self._screen.note(f"{self._job.name}: its worker prepares the run, {clock(waited)}")
                    due += NOTE_SECONDS
                for event in events:
                    if isinstance(event, Ended):
                        return event.result()
                    if not replay.show(event):
                        self._keep(event)
        finally:
            replay.close()
            if self._received is not None:
                self._received.drop()

    def _wait(
        self, call: Any, note: Callable[[float], None], first: float, pause: float = NOTE_SECONDS
    ) -> Generator[Any, None, Any]:
        """Return the answer to a call; ``note`` how long it takes, after ``first`` seconds and then every ``pause``."""
        start, due = time.monotonic(), first
        while not ray.wait([call], timeout=0)[0]:
            yield call
            if (waited := time.monotonic() - start) > due:
                note(waited)  # may raise
                due = max(due + pause, waited)
        try:
            return ray.get(call)
        except RayTaskError as error:
            raise RuntimeError(f"the worker failed: {error.cause}") from error
        except RayError as error:
            if isinstance(error, ActorDiedError) and error.actor_init_failed:
                raise RuntimeError(f"the worker could not start: {_last_line(error)}") from error
            raise _Lost(_last_line(error)) from error

    def _note_silence(self, seconds: float) -> None:
        self._screen.note(f"{self._job.name}: no answer from its worker for {clock(seconds)}")

    def _keep(self, event: Any) -> None:
        if isinstance(event, Saved):
            self._saved, self._deaths = event.step, 0
        elif isinstance(event, FilePart | FileGone):
            assert self._received is not None
            self._received.receive(event)

    def _count(self, error: _Lost) -> float:
        """Prepare the next worker, and return the seconds before it may start."""
        self._deaths += 1
        if self._deaths >= DEATHS:
            raise RuntimeError(
                f"{self._job.name}: its worker died {DEATHS} times in a row ({error}); check the memory of the nodes. "
                "The same command with --resume goes on"
            )
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        what = "its worker died" if self._node in alive else "the node of its worker is lost"
        since = f"step {self._saved}" if self._saved > 0 else "its beginning"
        self._screen.note(f"{self._job.name}: {what}; another one goes on from {since}")
        self._job = self._job._replace(resume=True)
        return PAUSE_SECONDS * self._deaths  # at once, Ray may place it on the node that has just died


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
