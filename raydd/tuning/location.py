"""The location of a search: a folder, or a URI whose small files also lie in a folder of this node's cache.

At a URI one driver at a time writes. Each puts a file of its own there, which it renews while it lives; a driver that
finds the fresh file of another one is refused.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raydd.buffer.mirror import mirror
from raydd.buffer.upload import put
from raydd.io.files import write_atomic
from raydd.io.filesystem import Store, open_store
from raydd.io.lock import alone
from raydd.io.paths import below
from raydd.io.stored_folder import INDEX
from raydd.io.uri import is_uri, public_uri
from raydd.tuning.trial import trial_folder
from raydd.tuning.trial_store import TrialStore

JOURNAL, SPACE = "study.journal", "space.yaml"
FOLDERS = ("best", "figures")  # of the files that the driver writes, beside those of trials
DRIVER = "driver-"
RENEW_SECONDS, STALE_SECONDS = 20.0, 120.0
LAZY_SECONDS = 5.0
"""Reports of running trials are sent to a URI at most this often: a trial repeats those that a killed driver lost."""


@dataclass
class Location:
    """Where a search is written.

    Attributes:
        folder: The search's folder, or this node's copy of the files at the URI.
        uri: None for a folder.
    """

    folder: Path
    uri: str | None = None

    def __post_init__(self) -> None:
        self._lease: _Lease | None = None
        self._sent_at = -LAZY_SECONDS

    @property
    def name(self) -> str:
        """The location in messages and results, without credentials."""
        return str(self.folder) if self.uri is None else public_uri(self.uri)

    @property
    def _store(self) -> Store:
        assert self.uri is not None
        return open_store(self.uri)

    def has_search(self) -> bool:
        """Return whether the location holds a search already."""
        if self.uri is None:
            return any((self.folder / name).exists() for name in (SPACE, JOURNAL))
        return not {SPACE, JOURNAL}.isdisjoint(self._store.names())

    def read_space(self) -> Path | None:
        """Return the file with the search's space on this node; None where there is none."""
        if self.uri is not None and SPACE in self._store.names():
            self.folder.mkdir(parents=True, exist_ok=True)
            return self._store.get(SPACE, self.folder / SPACE)
        path = self.folder / SPACE
        return path if self.uri is None and path.exists() else None

    @contextmanager
    def alone(self, verb: str, note: Callable[[str], None]) -> Iterator[None]:
        """Let no other driver write here during the block, which starts with the files that the location has."""
        with alone(self.folder, verb, note):
            if self.uri is None:
                yield
                return
            store = self._store
            with _Lease(store, verb) as self._lease:
                if INDEX in store.names():
                    raise ValueError(f"{self.name} holds other results, which raydd wrote; name another --out")
                for one in (store, *(open_store(below(self.uri, name)) for name in FOLDERS)):
                    one.sweep(others=DRIVER)  # of a killed driver
                there = store.names()
                for name in (SPACE, JOURNAL):
                    (self.folder / name).unlink(missing_ok=True)
                    if name in there:
                        store.get(name, self.folder / name)
                yield

    def record(self, urgent: bool = True) -> None:
        """Send the journal to the URI; one that only has more reports may wait for `LAZY_SECONDS`."""
        if self.uri is None or not (urgent or time.monotonic() - self._sent_at >= LAZY_SECONDS):
            return
        self.send([self.folder / JOURNAL])
        self._sent_at = time.monotonic()

    def send(self, paths: Iterable[Path]) -> None:
        """Send files of the folder to the same names below the URI."""
        if self.uri is None:
            return
        for path in paths:
            if self._lease is not None:
                self._lease.check()
            parent = path.relative_to(self.folder).parent.as_posix()
            put(open_store(below(self.uri, parent) if parent != "." else self.uri), path)

    def fetch_trial(self, number: int) -> None:
        """Bring a trial's run from the URI into the folder."""
        if self.uri is not None:
            trial = TrialStore(self._store.system, f"{self._store.path}/trials/{number:04d}")
            if (copy := trial.newest()) is not None:
                trial.fetch(copy, trial_folder(self.folder, number))

    def discard(self, name: str) -> None:
        """Remove a file."""
        (self.folder / name).unlink(missing_ok=True)
        if self.uri is not None:
            self._store.delete(name)

    def output(self, path: Path) -> Path | str:
        """Return where a file of the folder can be found later: at the URI, if there is one."""
        return path if self.uri is None else public_uri(below(self.uri, path.relative_to(self.folder).as_posix()))


def location_of(out: Path | str) -> Location:
    """Return the location of a folder or a URI; a ``file://`` URI is its folder."""
    if not is_uri(out):
        return Location(Path(out).absolute())
    uri = os.fspath(out)
    local = open_store(uri).local
    return Location(local.absolute()) if local is not None else Location(mirror(uri), uri)


class _Lease:
    """This driver's file at a URI; ages are compared by the store's own clock."""

    def __init__(self, store: Store, verb: str) -> None:
        self._store, self._ended = store, threading.Event()
        self._name = f"{DRIVER}{secrets.token_hex(6)}.json"
        self._text = json.dumps({"host": socket.gethostname(), "process": os.getpid(), "verb": verb}) + "\n"
        self._renewed = -STALE_SECONDS

    def __enter__(self) -> "_Lease":
        try:
            self._renew()
            self._refuse_others()
        except BaseException:
            self._store.delete(self._name)
            raise
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            self._store.delete(self._name)

    def check(self) -> None:
        """Refuse to write after a pause in which another driver may have started."""
        if time.monotonic() - self._renewed > STALE_SECONDS / 2:
            self._renew()
            self._refuse_others()

    def _renew(self) -> None:
        with TemporaryDirectory() as folder:
            self._store.put(write_atomic(Path(folder) / self._name, self._text.encode()), self._name)
        self._renewed = time.monotonic()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(OSError):  # `check` finds out
                self._renew()

    def _refuse_others(self) -> None:
        times = self._store.times(DRIVER)
        for name in times.keys() - {self._name}:
            age = times[self._name] - times[name]
            owner = self._owner(name)
            if age > STALE_SECONDS or _ended(owner):
                self._store.delete(name)
                continue
            raise ValueError(
                f"{self._store.public_uri}: process {owner.get('process')} on {owner.get('host')} "
                f"({owner.get('verb')}) writes there; wait for its end, or name another --out. If it was killed, try "
                f"again in {max(1, STALE_SECONDS - age):.0f} s"
            )

    def _owner(self, name: str) -> dict[str, Any]:
        try:
            tree = json.loads(self._store.read(name))
            return tree if isinstance(tree, dict) else {}
        except (OSError, ValueError):  # it ends right now
            return {}


def _ended(owner: dict[str, Any]) -> bool:
    """Return whether a driver ran on this machine and has ended."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("process"), int):
        return False
    try:
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
