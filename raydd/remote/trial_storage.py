"""Where the trials of a search run, and how their runs reach the search's folder or URI.

A worker that sees the driver's folder runs its trial there. Any other worker runs it in a folder of its own node and
sends the run as Tune's checkpoints, with every report and every minute.
"""

import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray
from pyarrow.fs import FileSelector, LocalFileSystem
from ray import tune

from raydd.io.files import temporary_path
from raydd.io.filesystem import open_store
from raydd.remote.buffer_copy import BufferCopy
from raydd.remote.cluster_files import sees, serve_files
from raydd.remote.demand import node_shapes
from raydd.remote.trials import NO_METRICS
from raydd.run.rollout_worker import StartWorkers
from raydd.tuning.checkpoint_transfer import export_checkpoint
from raydd.tuning.trial import Report, SearchContext, progress_of, run_trial, trial_folder
from raydd.tuning.trial_store import TrialStore

INTERIM_SECONDS = 60.0
"""A trial that has no folder in common with the driver sends its run after this, if no report is due."""

STATES = ("experiment_state", "search_gen_state", "searcher-state")
"""How the names of Tune's own files begin; a time follows."""

Sent = tuple[Report, tune.Checkpoint | None]


class SearchStorage(NamedTuple):
    """The storage of a search, for the driver and its workers."""

    system: Any  # a file system of `pyarrow.fs` that all nodes reach
    path: str  # of the search in it
    token: Path | None  # a file by which a node recognises the driver's folder; None for a URI
    content: str
    interim: bool = True  # whether trials send their runs between reports, too
    experts: BufferCopy | None = None  # those in a folder of the driver's node
    helpers: int = 0  # actors that compute parts of a trial's steps

    def trial(self, number: int) -> TrialStore:
        """Return the folder of a trial."""
        return TrialStore(self.system, f"{self.path}/trials/{number:04d}")

    def here(self, context: SearchContext) -> tuple[SearchContext, bool]:
        """Return the context of a trial in this worker, and whether it runs in the search's own folder."""
        if self.experts is not None:
            context = context._replace(buffer=self.experts.folder())
        if sees(self.token, self.content):
            return context, True
        return context._replace(folder=Path.cwd()), False  # Tune's folder of this trial on this node


@contextmanager
def search_storage(folder: Path, uri: str | None, *, interim: bool = True) -> Iterator[SearchStorage]:
    """Open the storage of a search for the nodes of the connected cluster.

    Raises:
        ValueError: The driver is outside the cluster.
    """
    if ray.util.client.ray.is_connected():
        raise ValueError(
            "--address ray://...: the driver of a search runs on the cluster; submit it with `ray job submit`"
        )
    if uri is not None:
        yield SearchStorage(serve_files(uri, None, ""), open_store(uri).path, None, "", interim)
        return
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    token, content = temporary_path(folder / "trials" / "token"), secrets.token_hex(16)
    token.write_text(content, encoding="ascii")
    try:
        alone = len(node_shapes()) == 1
        system = LocalFileSystem() if alone else serve_files(str(folder), token, content)
        yield SearchStorage(system, str(folder), token, content, interim)
    finally:
        token.unlink(missing_ok=True)


def prepare(storage: SearchStorage, folder: Path, unfinished: Collection[int]) -> None:
    """Make the trials' runs of earlier calls ready, also of one that was killed."""
    here = storage.token is not None
    for number in unfinished:
        storage.trial(number).promote(here)
    if here:
        gather(storage, folder, {int(path.parent.name) for path in (folder / "trials").glob("[0-9]*/checkpoint_*")})


def gather(storage: SearchStorage, folder: Path, numbers: Iterable[int]) -> None:
    """Bring the newest runs of trials from their checkpoints into the search's folder, and keep those checkpoints.

    At a URI they stay where they are, and a run that `prepare` moved out of an older one goes.
    """
    for number in numbers:
        if storage.token is None:
            storage.trial(number).settle()
            continue
        own = trial_folder(folder, number)
        checkpoints = sorted(own.glob("checkpoint_*"))
        if checkpoints:
            TrialStore(LocalFileSystem(), str(own)).restore(own)
        for path in checkpoints[:-1]:
            shutil.rmtree(path)


def settle(folder: Path, uri: str | None, numbers: Iterable[int]) -> None:
    """Put the runs of trials in order that have ended; a driver may have been killed just before it did."""
    system, path = (LocalFileSystem(), str(folder)) if uri is None else (open_store(uri).system, open_store(uri).path)
    storage = SearchStorage(system, path, folder if uri is None else None, "")
    gather(storage, folder, numbers)
    with suppress(OSError):  # they are small
        drop_old_states(storage)


def drop_old_states(storage: SearchStorage) -> None:
    """Remove the files in which Tune kept a search's state, but for the newest: every call that goes on adds some."""
    files = storage.system.get_file_info(FileSelector(f"{storage.path}/trials", allow_not_found=True))
    for kind in STATES:
        names = sorted(file.path for file in files if file.base_name.startswith(f"{kind}-"))
        for name in names[:-1]:
            storage.system.delete_file(name)


def independent_reports(
    context: SearchContext,
    storage: SearchStorage,
    number: int,
    values: Mapping[str, Any],
    checkpoint: tune.Checkpoint | None,
    start_workers: StartWorkers | None = None,
) -> Iterator[Sent]:
    """Run a trial in a worker; yield its reports, and its run with each that is new."""
    here, in_folder = storage.here(context)
    folder = trial_folder(here.folder, number)
    if checkpoint is not None:
        sent = TrialStore(checkpoint.filesystem, checkpoint.path).restore(folder)
    else:  # the folder of this node may be further, if a worker has died here
        sent = progress_of(folder) if in_folder else storage.trial(number).restore(folder)
    interim = _Interim(folder, sent, send=storage.interim and not in_folder)
    reports = run_trial(here, number, values, saved=interim, start_workers=start_workers)
    for report in finished_last(reports, context.space.config(values).steps):
        interim.last = report._asdict()
        if progress_of(folder) == interim.progress:
            yield report, None
            continue
        with tempfile.TemporaryDirectory() as copy:
            yield report, interim.export(Path(copy))


def finished_last(reports: Iterable[Report], steps: int) -> Iterator[Report]:
    """Yield reports; the last one when the run is finished, so that its checkpoint has the result."""
    left = iter(reports)
    for report in left:
        yield from [report, *left] if report.step >= steps else [report]


class _Interim:
    """Sends a trial's run between reports."""

    def __init__(self, folder: Path, sent: tuple[int, int, bool], *, send: bool) -> None:
        self._folder, self._send, self._sent = folder, send, time.monotonic()
        self.progress = sent
        self.last: Mapping[str, Any] = NO_METRICS

    def __call__(self) -> None:
        if self._send and time.monotonic() - self._sent >= INTERIM_SECONDS:
            with tempfile.TemporaryDirectory() as copy:
                tune.report(dict(self.last), checkpoint=self.export(Path(copy)))

    def export(self, copy: Path) -> tune.Checkpoint:
        """Return a checkpoint of the run as it is."""
        export_checkpoint(self._folder, copy)
        self.progress, self._sent = progress_of(self._folder), time.monotonic()
        return tune.Checkpoint.from_directory(copy)
