"""A machine's memory of the files that it has found whole, so that it reads each once."""

import hashlib
import os
import time
from pathlib import Path

from raydd.io.document import Document, read_document, write_document
from raydd.io.files import AnyPath

SETTLED_SECONDS = 2.0  # a file that was changed this short ago could change again without a sign

Identity = tuple[int, int, int, int, str]
"""Of a file that was read: its inode, its bytes, when its content and its inode changed (ns), and its checksum."""


class _Whole(Document):
    """The files of a folder that were found whole, by name."""

    folder: str
    files: dict[str, Identity]


class FoundWhole:
    """The files of a folder that were found whole.

    Args:
        folder: The files' folder.
        cache: Where this machine keeps what can be made again.
    """

    def __init__(self, folder: AnyPath, cache: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._path = cache / "verified" / f"{hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:32]}.json"
        self.known = self._read()

    def remember(self, files: dict[str, Identity]) -> None:
        """Remember these files alone."""
        if files == self.known:
            return
        try:
            write_document(self._path, {"folder": self._folder, "files": files})
        except OSError:  # no room, or no cache to write to: the next run reads the files again
            return

    def _read(self) -> dict[str, Identity]:
        try:
            return read_document(self._path, _Whole, "it is only a memory").files if self._path.exists() else {}
        except ValueError:  # of another version, or damaged: everything is read
            return {}


def identity(path: Path, checksum: str) -> Identity | None:
    """Return the identity of a file with a checksum; None if it was changed too short ago to have one."""
    status = path.stat()
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, checksum
