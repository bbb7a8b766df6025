"""One process at a time writes to a folder or file: a lock that ends with its process, however that ends.

The lock is a file ``.lock`` in the folder, or ``.NAME.lock`` beside it, that says who holds it. The kernel releases the
lock of a killed process, so that what it leaves never blocks another one.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO

LOCK = ".lock"
POLL_SECONDS = 0.5
ATTEMPTS = 100
Tell = Callable[[str], None]
_TAKEN = {errno.EWOULDBLOCK, errno.EACCES}
_HELD: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@contextlib.contextmanager
def alone(
    place: Path, verb: str, tell: Tell | None = None, *, beside: bool = False, wait: bool = False
) -> Iterator[None]:
    """Keep a folder or file for this process; inside a block that has it already, this does nothing.

    Args:
        place: A folder, which is made, and removed again if it stays empty; or, with ``beside``, any path.
        verb: Who works there, as the other process is told, such as ``raydd distill``.
        tell: Where it is said that the file system has no locks, and that another process is waited for.
        beside: Put the lock beside the place: it is a file, or a folder that must stay empty.
        wait: Wait for the end of another process instead of refusing.

    Raises:
        ValueError: Another process works there, or nothing can be written there.
    """
    key = place.absolute()
    if key in _HELD.get():
        yield
        return
    lock = place.with_name(f".{place.name}{LOCK}") if beside else place / LOCK
    with _removed_if_empty(lock.parent), _locked(lock, place, verb, tell or (lambda line: None), wait):
        token = _HELD.set(_HELD.get() | {key})
        try:
            yield
        finally:
            _HELD.reset(token)


@contextlib.contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Take away what of a folder's path is not there yet and stays empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # something was written, or another process is there by now
            for path in new:
                path.rmdir()


@contextlib.contextmanager
def _locked(lock: Path, place: Path, verb: str, tell: Tell, wait: bool) -> Iterator[None]:
    file = _taken(lock, place, tell, wait)
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} ({verb})")
        file.flush()
        yield
    finally:
        with contextlib.suppress(OSError):  # such as a folder that was deleted meanwhile
            lock.unlink()
        file.close()


def _taken(lock: Path, place: Path, tell: Tell, wait: bool) -> IO[str]:
    """The lock's file, held; one that its holder has removed meanwhile is no lock any more, and is opened anew."""
    waits = False
    while True:
        file = _opened(lock, place)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, file):
                return file
        except OSError as error:
            if error.errno not in _TAKEN:
                tell(f"{place}: its file system has no locks ({error.strerror}); let no second process write there")
                return file
            file.seek(0)
            holder = file.read() or "another process"
            if not wait:
                file.close()
                raise ValueError(f"{place}: {holder} works there; wait for its end, or name another place") from None
            if not waits:
                tell(f"{place}: waiting for {holder}")
            waits = True
            time.sleep(POLL_SECONDS)
        file.close()


def _opened(lock: Path, place: Path) -> IO[str]:
    reason = None
    for _ in range(ATTEMPTS):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            return lock.open("a+", encoding="utf-8")
        except FileNotFoundError as error:  # another process has just taken the empty folder away; or it cannot be
            reason = error.strerror
        except OSError as error:
            reason = error.strerror
            break
    raise ValueError(f"{place} cannot be written ({reason}); name another place")


def _is_at(lock: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(lock.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
