"""A folder for the files of a local Ray that no other user can enter: where it goes, and that it goes away."""

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
"""Where the files go when neither ``RAY_TMPDIR`` nor ``TMPDIR`` names a folder that will do."""
PREFIX, LOCK, RAY = "raydd-", "lock", "ray"
"""What the folder's name begins with, the file that its process holds, and Ray's own folder in it."""
SOCKET_MOST = 107
"""Bytes of a socket's path, of Linux."""
LONGEST = SOCKET_MOST - len(f"/{PREFIX}12345678/{RAY}/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
"""Bytes of a folder's path that leave room for the paths of Ray's sockets."""
REMOVING_SECONDS = 2.0


class Root(NamedTuple):
    """The folders that private folders are made in; they may not exist yet.

    Attributes:
        folder: For Ray's sockets, logs and small files: its path is short.
        large: For objects that do not fit into memory.
        note: Why it is not the one that TMPDIR names; empty where it is.
    """

    folder: Path
    large: Path
    note: str


def root() -> Root:
    """Where a local Ray's files go: to ``RAY_TMPDIR``; else to ``TMPDIR``, or to /tmp where that cannot be used.

    Where the path is too long for sockets, these go to /tmp.

    Raises:
        ValueError: ``RAY_TMPDIR``, or /tmp, cannot be used.
    """
    asked, wish, note = os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), ""
    large = Path(asked or wish or SHORT).absolute()
    if problem := unfit(large):
        if asked:
            raise ValueError(f"RAY_TMPDIR={asked}: {problem}; set RAY_TMPDIR to another folder, such as /tmp")
        note, large = f"TMPDIR={wish}: {problem}; the files of the local Ray go to {SHORT}", SHORT
    folder = large if len(os.fsencode(large)) <= LONGEST else SHORT
    if problem := unfit(folder):
        raise ValueError(
            f"{folder}: {problem}; set RAY_TMPDIR to a folder of yours with a path of at most {LONGEST} bytes"
        )
    return Root(folder, large, note)


def unfit(folder: Path) -> str:
    """Why a local Ray cannot keep its files in a folder; empty where it can. Nothing is made, and nothing left."""
    there = existing(folder)
    try:
        if (mode := there.stat().st_mode) & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return f"other users can rename what is in {there} (mode {stat.S_IMODE(mode):o}, without a sticky bit)"
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"it cannot be written ({error.strerror})"


@contextmanager
def private_folder(folder: Path) -> Iterator[Path]:
    """A new folder of mode 0700 in another one, removed after the block; what killed processes left is removed first.

    Args:
        folder: Where to make it; made where it does not exist.

    Raises:
        OSError: It cannot be made.
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
            (own / "unheld").rename(own / LOCK)  # never seen without a holder
            yield own
    finally:
        _remove(own)
        atexit.unregister(at_exit)


def _remove(folder: Path) -> None:
    """Remove a folder that processes which are just ending may still write in."""
    end = time.monotonic() + REMOVING_SECONDS
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove the private folders of this user's processes of this machine that were killed."""
    for place in folder.glob(f"{PREFIX}*/{LOCK}"):
        try:
            if place.parent.lstat().st_uid != os.getuid() or place.read_text() != socket.gethostname():
                continue
            with place.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place.parent, ignore_errors=True)
        except OSError:  # its process lives, or another one removes it
            continue
