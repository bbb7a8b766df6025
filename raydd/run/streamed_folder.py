"""A run folder that is sent to another process as its files change, in parts of bounded size."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from raydd.io.files import temporary_path
from raydd.io.stored_folder import files_below
from raydd.run.run_folder import is_run_file

PART_BYTES = 4 << 20


class FilePart(NamedTuple):
    """Bytes of a file, in order; the first part has the start 0."""

    name: str
    start: int
    data: bytes
    last: bool


class FileGone(NamedTuple):
    """A file that the folder no longer has."""

    name: str


class StreamedFolder:
    """Sends what has changed in a folder since the last time."""

    def __init__(self, folder: Path, emit: Callable[[FilePart | FileGone], None]) -> None:
        self._folder, self._emit = folder, emit
        self._sent: dict[str, tuple[int, int, int]] = _states(folder)  # the receiver has the files of the beginning

    def send(self) -> None:
        """Send the changed files, in the order in which they were written."""
        states = _states(self._folder)
        for name, state in states.items():
            if self._sent.get(name) != state:
                self._send(name)
        for name in self._sent.keys() - states.keys():
            self._emit(FileGone(name))
        self._sent = states

    def _send(self, name: str) -> None:
        with (self._folder / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = 0
            while True:
                data = file.read(min(PART_BYTES, size - start))
                last = start + len(data) >= size or not data
                self._emit(FilePart(name, start, data, last))
                start += len(data)
                if last:
                    return


class ReceivedFolder:
    """Writes the files of a `StreamedFolder`, each whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._name = folder, ""
        self._file: BinaryIO | None = None
        self._temporary = Path()

    def receive(self, event: FilePart | FileGone) -> None:
        """Write a part of a file, or remove a file."""
        if not is_run_file(event.name):
            raise RuntimeError(f"a worker sent {event.name[:80]!r}, which is no file of a run")
        path = self._folder / event.name
        if isinstance(event, FileGone):
            path.unlink(missing_ok=True)
            return
        if event.start == 0:
            self.drop()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._name, self._temporary = event.name, temporary_path(path)
            self._file = self._temporary.open("wb")
        assert self._file is not None
        assert self._name == event.name
        assert self._file.tell() == event.start
        self._file.write(event.data)
        if event.last:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            self._temporary.replace(path)

    def drop(self) -> None:
        """Remove the file that is not complete, because its sender has died."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._temporary.unlink(missing_ok=True)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a run folder, by name, in the order in which they were written."""
    return {name: (folder / name).read_bytes() for name in files_below(folder) if is_run_file(name)}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a run folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _states(folder: Path) -> dict[str, tuple[int, int, int]]:
    states = {}
    for name in files_below(folder):
        if is_run_file(name):
            status = (folder / name).stat()
            states[name] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return states
