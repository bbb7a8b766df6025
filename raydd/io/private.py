"""A folder for the files of a local Ray that no other user can enter, and its removal."""

import atexit
import fcntl
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from raydd.io.paths import existing

SHORT = Path("/tmp")
"""Where the files go if neither ``RAY_TMPDIR`` nor ``TMPDIR`` names a usable folder."""
PREFIX, LOCK, RAY = "raydd-", "lock", "ray"
"""The beginning of the folder's name, the file that its process locks, and Ray's own folder in it."""
SOCKET_MOST = 107
"""Bytes of a socket's path on Linux."""
LONGEST = SOCKET_MOST - len(f"/{PREFIX}12345678/{RAY}/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
"""Bytes of a folder's path that leave room for the paths of Ray's sockets."""
REMOVING_SECONDS = 2.0


class Root(NamedTuple):
    """The parents of private folders; they may not exist yet.

    Attributes:
        folder: For Ray's sockets, logs and small files: its path is short.
        large: For objects that do not fit into memory.
        note: Why it is not the folder of TMPDIR; empty if it is.
    """

    folder: Path
    large: Path
    note: str


def root() -> Root:
    """Choose where a local Ray's files go: ``RAY_TMPDIR``, else ``TMPDIR``, or /tmp if that cannot be used.

    Sockets go to /tmp if the path is too long for them.
    """
    ray, temporary, note = os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), ""
    large = Path(ray or temporary or SHORT).absolute()
    if problem := problem_of(large):
        if ray:
            raise ValueError(f"RAY_TMPDIR={ray}: {problem}; set RAY_TMPDIR to another folder, such as /tmp")
        note, large = f"TMPDIR={temporary}: {problem}; the files of the local Ray go to {SHORT}", SHORT
    folder = large if len(os.fsencode(large)) <= LONGEST else SHORT
    if problem := problem_of(folder):
        raise ValueError(
            f"{folder}: {problem}; set RAY_TMPDIR to a folder of yours with a path of at most {LONGEST} bytes"
        )
    return Root(folder, large, note)


def problem_of(folder: Path) -> str:
    """Return why a local Ray cannot keep its files in a folder, or an empty text. Nothing is left there."""
    nearest = existing(folder)
    try:
        if (mode := nearest.stat().st_mode) & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return f"other users can rename what is in {nearest} (mode {stat.S_IMODE(mode):o}, without a sticky bit)"
        with tempfile.TemporaryFile(dir=nearest):
            return ""
    except OSError as error:
        return f"it cannot be written ({error.strerror})"


@contextmanager
def private_folder(folder: Path) -> Iterator[Path]:
    """Make a folder of mode 0700 in another one, and remove it after the block.

    The folders that killed processes left there are removed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    at_exit = partial(_remove, own)  # for a thread that the interpreter leaves behind
    atexit.register(at_exit)
    try:
        with (own / "unheld").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(socket.gethostname())
            lock.flush()
            (own / "unheld").rename(own / LOCK)  # the name exists only with a holder
            yield own
    finally:
        _remove(own)
        atexit.unregister(at_exit)


def _remove(folder: Path) -> None:
    """Remove a folder in which ending processes may still write."""
    end = time.monotonic() + REMOVING_SECONDS
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove the private folders of this user's killed processes of this machine."""
    for lock_path in folder.glob(f"{PREFIX}*/{LOCK}"):
        try:
            if lock_path.parent.lstat().st_uid != os.getuid() or lock_path.read_text() != socket.gethostname():
                continue
            with lock_path.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_path.parent, ignore_errors=True)
        except OSError:  # its process lives, or another one removes it
            continue
