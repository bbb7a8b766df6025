"""One process at a time writes to a folder or file.

The lock is a file ``.lock`` in the folder, or ``.NAME.lock`` beside it, which names its holder. The system releases
the lock of a killed process, so a file that such a process leaves blocks nobody.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from raydd.io.paths import check_local

LOCK = ".lock"
POLL_SECONDS = 0.5
ATTEMPTS = 100
Tell = Callable[[str], None]
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_OWN: ContextVar[frozenset[Path]] = ContextVar("own", default=frozenset())


@contextlib.contextmanager
def alone(
    path: Path, verb: str, tell: Tell | None = None, *, beside: bool = False, wait: bool = False
) -> Iterator[None]:
    """Lock a folder or file for this process; inside a block that has locked it already, do nothing.

    Args:
        path: A folder, which is made, and removed again if it stays empty; or, with ``beside``, any path.
        verb: The command that works there, as other processes report it, such as ``raydd distill``.
        tell: Takes a line where the file system has no locks, and where this process waits for another one.
        beside: Put the lock beside the path: it is a file, or a folder that must stay empty.
        wait: Wait for the end of another process instead of refusing.
    """
    key = check_local(path).absolute()
    if key in _OWN.get():
        yield
        return
    lock = path.with_name(f".{path.name}{LOCK}") if beside else path / LOCK
    with removed_if_empty(lock.parent):
        file_lock = _acquire(lock, path, tell or (lambda line: None), wait)
        token = _OWN.set(_OWN.get() | {key})
        try:
            lock.write_text(f"process {os.getpid()} on {socket.gethostname()} ({verb})", encoding="utf-8")
            yield
        finally:
            _OWN.reset(token)
            with contextlib.suppress(OSError):  # such as a folder that was deleted meanwhile
                lock.unlink()
            file_lock.release()


@contextlib.contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove those folders of a path that do not exist yet and stay empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # something was written, or another process has removed them
            for path in new:
                path.rmdir()


def _acquire(lock: Path, path: Path, tell: Tell, wait: bool) -> FileLock:
    """Return the acquired lock. One without a lock on disk stands for a file system that has no locks."""
    file_lock = FileLock(lock, poll_interval=POLL_SECONDS, fallback_to_soft=False, thread_local=False)
    waits, attempts = False, ATTEMPTS
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file_lock.acquire(timeout=-1 if waits else 0)
            return file_lock
        except Timeout:
            with contextlib.suppress(OSError):
                holder = lock.read_text(encoding="utf-8") or "another process"
                if not wait:
                    what = f"{path}: {holder} works there; wait for its end, or name another folder"
                    raise ValueError(what) from None
                tell(f"{path}: waiting for {holder}")
                waits = True
        except OSError as error:
            attempts -= 1
            if error.errno in _NO_LOCKS:
                tell(f"{path}: its file system has no locks ({error.strerror}); start no second process there")
                return file_lock
            removed = isinstance(error, FileNotFoundError | FileExistsError)  # by its holder, between two looks
            if not (removed and attempts):
                raise ValueError(f"{path} cannot be written ({error.strerror}); name another folder") from None


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process of this node work in a folder while the others wait; no file is written for it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: each process works by itself
            lock_descriptor(descriptor)
        yield
    finally:
        os.close(descriptor)
