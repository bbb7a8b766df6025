"""One command at a time writes to a folder at a URI.

Each command that wants to write there stores a ticket, ``claim-*.json``, and changes it every few seconds. A command
that finds another ticket watches it: if it changes, its owner is alive, and the command is refused; if not, the owner
is dead, and its ticket is removed. No clocks are compared, and object stores need no locks.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from raydd.io.document import Document, Whole, parse_document, write_document
from raydd.io.filesystem import Store

PREFIX = "claim-"
BEAT_SECONDS = 5.0
DEAD_SECONDS = 30.0
"""A ticket that does not change for so long has lost its owner."""
POLL_SECONDS = 1.0
Tell = Callable[[str], None]


class _Ticket(Document):
    incarnation: str
    holder: str
    working: bool
    beat: Whole


class Claim:
    """A command's right to write to a store, from `claim_store`."""

    def __init__(self, store: Store, verb: str, owner: str) -> None:
        self._store, self._name = store, f"{PREFIX}{owner}.json"
        self._incarnation, self._holder = secrets.token_hex(8), f"process {os.getpid()} on {socket.gethostname()}"
        self._holder += f" ({verb})"
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._beat, self._working, self._lost = 0, False, False

    def check(self) -> None:
        """Refuse to write if another process has taken this claim over."""
        with self._lock:
            own = _read(self._store, self._name)
            self._lost = self._lost or own is None or own.incarnation != self._incarnation
        if self._lost:
            raise RuntimeError(f"{self._store.public_uri}: another process goes on there, so this one ends")

    def _put(self, working: bool) -> None:
        with self._lock:
            self._working, self._beat = working, self._beat + 1
            ticket = {"incarnation": self._incarnation, "holder": self._holder, "working": working, "beat": self._beat}
            with TemporaryDirectory() as scratch:
                self._store.put(write_document(Path(scratch) / self._name, ticket), self._name)

    def _keep_alive(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # the store may be away for a while; `check` raises if that was too long
                try:
                    self.check()
                except RuntimeError:
                    return
                self._put(self._working)

    def _remove(self) -> None:
        with suppress(OSError, RuntimeError):
            self.check()  # the ticket of a process that has taken over stays
            self._store.delete(self._name)

    def _acquire(self, tell: Tell) -> None:
        seen, dead_at, noted = dict[str, str](), dict[str, float](), False
        while True:
            if not (others := self._others()):
                if self._working:
                    return
                self._put(working=True)
                continue  # look again: another command may have looked before this was written
            for name, ticket in others.items():
                mark = json.dumps([ticket.incarnation, ticket.beat])
                if name in seen and seen[name] != mark and (ticket.working or name < self._name or self._working):
                    uri = self._store.public_uri
                    raise ValueError(f"{uri}: {ticket.holder} works there; wait for its end, or name another one")
                if seen.get(name) != mark:
                    seen[name], dead_at[name] = mark, time.monotonic() + DEAD_SECONDS
                elif time.monotonic() > dead_at[name]:
                    self._store.delete(name)
            if not noted:
                holder = next(iter(others.values())).holder
                tell(f"{self._store.public_uri}: waiting up to {DEAD_SECONDS:.0f} s, in case {holder} is alive")
                noted = True
            time.sleep(POLL_SECONDS)

    def _others(self) -> dict[str, _Ticket]:
        names = [name for name in self._store.names() if name.startswith(PREFIX) and name != self._name]
        tickets = {name: _read(self._store, name) for name in names}
        return {name: ticket for name, ticket in tickets.items() if ticket is not None}


@contextmanager
def claim_store(store: Store, verb: str, tell: Tell, owner: str | None = None) -> Iterator[Claim]:
    """Claim a store for the block.

    Args:
        store: The folder at a URI.
        verb: The command that writes there, as others report it, such as ``raydd distill``.
        tell: Takes a line where this process waits.
        owner: A later process with the same owner takes the claim over; by default there is none.

    Raises:
        ValueError: Another command works there.
    """
    claim = Claim(store, verb, owner or secrets.token_hex(8))
    claim._put(working=False)
    beats = threading.Thread(target=claim._keep_alive, name="claim", daemon=True)
    beats.start()
    try:
        claim._acquire(tell)
        yield claim
    finally:
        claim._ended.set()
        beats.join(BEAT_SECONDS)
        claim._remove()


def _read(store: Store, name: str) -> _Ticket | None:
    """Return a ticket; None if it is gone."""
    try:
        return parse_document(store.read(name), _Ticket, always_sealed=True)[0]
    except FileNotFoundError:
        return None
    except ValueError:  # of no raydd; it never changes, and so is removed
        return _Ticket(incarnation="", holder="another process", working=True, beat=0)
