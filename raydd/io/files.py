"""Files that are whole or absent: atomic writing, and the removal of what dead writers left."""

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raydd.io.paths import check_local

AnyPath = str | os.PathLike[str]

_TEMPORARY = re.compile(r"\.(?P<host>[0-9a-f]{8})\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp$")
_FOREIGN_SECONDS = 24 * 3600  # a writer on another machine is taken for dead after this long


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def writer() -> str:
    """Return the part of its temporary files' names by which this process is known: its machine and its number."""
    return f"{_host()}.{os.getpid()}"


def temporary_path(path: AnyPath) -> Path:
    """Return a new name beside ``path`` for an unfinished file; `sweep` removes it once its writer is dead."""
    return Path(path).with_name(f"{Path(path).name}.{writer()}.{secrets.token_hex(4)}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path``, which becomes ``path`` when the block ends without an error.

    The folder is made if need be. The file is synced to disk before it is renamed, so ``path`` is never seen half
    written, not even after a crash. A block that raises leaves nothing; a killed writer leaves its temporary file,
    which `sweep` removes.
    """
    final = check_local(Path(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(final)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, final)
        _sync(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: AnyPath, data: bytes) -> Path:
    """Write ``data`` to ``path``, whole or not at all; return the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def sweep(folder: AnyPath) -> list[Path]:
    """Remove the temporary files that dead writers left in a folder, and return their paths.

    Files of living processes of this machine stay, and those of other machines for a day.
    """
    matches = ((path, _TEMPORARY.search(path.name)) for path in sorted(Path(folder).glob("*.tmp")))
    stale = [path for path, match in matches if match and _dead(path, match["host"], int(match["pid"]))]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def remove_temporaries(folder: AnyPath, dead: str) -> None:
    """Remove the temporary files of a writer that is known to be dead, wherever it ran; see `writer`."""
    for path in Path(folder).glob(f"*.{dead}.*.tmp"):
        path.unlink(missing_ok=True)


def _dead(path: Path, host: str, pid: int) -> bool:
    if host != _host():
        return path.exists() and time.time() - path.stat().st_mtime > _FOREIGN_SECONDS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
