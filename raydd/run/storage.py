"""Where a run keeps its files: a folder, or a URI to which a folder of this machine is saved as the run goes on."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from raydd.io.files import AnyPath, sweep
from raydd.io.filesystem import Store, open_store
from raydd.io.lock import alone
from raydd.io.paths import default_cache, split_uri
from raydd.io.private import private_folder
from raydd.io.store_claim import PREFIX, claim_store
from raydd.io.stored_folder import StoredFolder
from raydd.io.uri import is_uri

SAVE_SECONDS = 2.0
SAVE_SHARE = 0.1
"""The largest part of the time that saving takes, unless a checkpoint would wait for more than `most_seconds`."""
PAUSES = (2.0, 10.0)
"""Seconds before the last files are saved again after a failure."""
TRAININGS = "trainings.jsonl"
"""The results of trainings, so that another machine, whose cache lacks them, repeats none."""
Tell = Callable[[str], None]
_OPEN: ContextVar[Mapping[str, "RunStorage"]] = ContextVar("open", default=MappingProxyType({}))


@dataclass
class RunStorage:
    """The folder that a run works in, and what saves it elsewhere.

    Attributes:
        folder: On this machine.
        name: What messages call the folder.
        commit: Saves the folder's files; None where the folder itself is where the run is kept.
        tell: Takes a line on what could not be saved.
        most_seconds: How long a checkpoint waits to be saved at most.
        on_saved: Takes the step of each checkpoint that is saved.
        saved: The step of the checkpoint that was saved last; -1 before the first.
    """

    folder: Path
    name: str
    commit: Callable[[], None] | None = None
    tell: Tell = print
    most_seconds: float = 60.0
    on_saved: Callable[[int], None] = lambda step: None
    saved: int = -1
    _due: float = field(default=0.0, init=False)

    def save(self, step: int, unit: str = "step") -> None:
        """Save the checkpoint of an outer step, unless it is saved already or the last one was a moment ago."""
        if self.commit is None or step == self.saved or time.monotonic() < self._due:
            return
        start = time.monotonic()
        try:
            self.commit()
            self.saved = step
            self.on_saved(step)
        except OSError as error:
            if self.saved < 0:  # nobody could write there
                raise
            self.tell(f"{unit} {step} is not saved yet: {error}")
        end = time.monotonic()
        self._due = end + min(self.most_seconds, max(SAVE_SECONDS, (end - start) / SAVE_SHARE))

    def save_last(self) -> None:
        """Save all files of a run that has ended."""
        if self.commit is None:
            return
        for pause in PAUSES:
            try:
                self.commit()
                return
            except OSError as error:
                self.tell(f"{error}: trying again in {pause:.0f} s")
                time.sleep(pause)
        self.commit()

    def output(self, path: AnyPath) -> str:
        """Return where a file of the folder can be found later: a path, or a URI."""
        return f"{self.name}/{Path(path).relative_to(self.folder).as_posix()}" if self.commit else str(path)

    def public(self, text: str) -> str:
        """Return a message with the storage's name instead of the folder's."""
        return text.replace(str(self.folder), self.name)


@contextmanager
def open_storage(out: AnyPath, verb: str, tell: Tell, owner: str | None = None) -> Iterator[RunStorage]:
    """Yield the storage of a run for one command at a time; the files at a URI are fetched first.

    What is written into its folder is at the URI after `RunStorage.save` or `RunStorage.save_last`. Inside a block that
    has opened the same URI it is that block's storage.

    Args:
        out: A folder, or a URI.
        verb: The command, as others report it.
        tell: Takes a line on what is waited for, or could not be saved.
        owner: See `raydd.io.store_claim.claim_store`.

    Raises:
        ValueError: Another command works there, or the block raised it; messages have the name of the storage.
    """
    store = open_store(os.fspath(out)) if is_uri(out) else None
    folder = Path(out) if store is None else store.local
    if folder is not None:
        with alone(folder, verb, tell):
            yield RunStorage(folder, str(folder))
        return
    assert store is not None
    if (current := _OPEN.get().get(store.public_uri)) is not None:
        yield current
        return
    with claim_store(store, verb, tell, owner) as claim, private_folder(default_cache() / "work") as private:
        folder = private / "run"
        folder.mkdir()
        stored = StoredFolder(store.uri)
        if not stored.fetch(folder):
            _check_empty(store)
        stored.sweep(others=PREFIX)

        def commit() -> None:
            claim.check()
            sweep(folder)
            stored.commit(folder)

        storage = RunStorage(folder, store.public_uri.partition("?")[0], commit, tell)
        token = _OPEN.set({**_OPEN.get(), store.public_uri: storage})
        try:
            with public_errors(storage):
                yield storage
        finally:
            _OPEN.reset(token)


@contextmanager
def open_file(out: AnyPath, verb: str, tell: Tell) -> Iterator[tuple[RunStorage, Path]]:
    """Yield the storage of one result, and the path to write it to; files beside it may be written too.

    Args:
        out: A path, or the URI of a file: it is one of the folder at the URI that the last ``/`` ends.
        verb: The command, as others report it.
        tell: Takes a line on what is waited for, or could not be saved.
    """
    path = (open_store(os.fspath(out)).local if is_uri(out) else Path(out)) or None
    if path is not None:
        with alone(path, verb, tell, beside=True):
            yield RunStorage(path.parent, str(path.parent)), path
        return
    folder, name = split_uri(os.fspath(out))
    with open_storage(folder, verb, tell) as storage:
        yield storage, storage.folder / name
        storage.save_last()


def remote_storage() -> RunStorage | None:
    """Return the storage at a URI that this block has opened last; None where results stay on this machine."""
    return next(reversed([*_OPEN.get().values()]), None)


def _check_empty(store: Store) -> None:
    """Refuse a URI that holds something else, which files of its own names would not be part of."""
    names = store.names()
    for name, what in (("manifest.json", "buffer"), ("space.yaml", "search")):
        if name in names:
            raise ValueError(f"{store.public_uri} holds a {what}; name another --out")


@contextmanager
def public_errors(storage: RunStorage) -> Iterator[None]:
    """Let the errors of a block name the storage instead of its folder on this machine."""
    try:
        yield
    except (ValueError, FloatingPointError, RuntimeError, OSError) as error:
        text, kind = storage.public(str(error)), kind_of(error)
        if text == str(error):
            raise
        raise kind(text) from None


KINDS: tuple[type[Exception], ...] = (FloatingPointError, ValueError, OSError, RuntimeError)


def kind_of(error: BaseException) -> type[Exception]:
    """Return the kind of an error that has a message alone, and leads to the same exit code."""
    return next((kind for kind in KINDS if isinstance(error, kind)), RuntimeError)
