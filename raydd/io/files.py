"""Files that are whole or absent: atomic writing, and memory-mapped Arrow tables of plain numbers."""

import hashlib
import io
import math
import mmap
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raydd.io.arrow_batch import read_batch
from raydd.io.bounded_file import open_regular
from raydd.io.paths import check_local

Columns = Mapping[str, np.ndarray[Any, Any]]
AnyPath = str | os.PathLike[str]

_TEMPORARY = re.compile(r"\.(?P<host>[0-9a-f]{8})\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp$")
_FOREIGN_SECONDS = 24 * 3600  # a writer on another machine is taken for dead after this long
_SLICE_BYTES = 16 << 20


def _nothing() -> None:
    pass


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


class _Sliced(io.RawIOBase):
    """A file that takes large buffers in slices, and releases the source's pages after each."""

    def __init__(self, path: Path, release: Callable[[], None]) -> None:
        self._file, self._release = path.open("wb", buffering=0), release

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _SLICE_BYTES):
            piece = view[start : start + _SLICE_BYTES]
            while piece:  # the system may take less than it is given
                piece = piece[self._file.write(piece) :]
            self._release()
        return len(view)

    def close(self) -> None:
        self._file.close()
        super().close()


def write_arrow(
    path: AnyPath, columns: Columns, metadata: Mapping[str, str], release: Callable[[], None] = _nothing
) -> Path:
    """Write arrays as one uncompressed Arrow IPC file, atomically; equal arguments give equal bytes.

    Args:
        path: The file; it is returned.
        columns: Arrays of equal length. A one-dimensional array becomes a plain column; of the others each row
            becomes a fixed-size list.
        metadata: Of the schema.
        release: Called every 16 MB, to release the pages of columns in a memory map.
    """
    batch = pa.record_batch({name: _column(array) for name, array in columns.items()})
    batch = batch.replace_schema_metadata(dict(metadata))
    with (
        atomic_path(path) as temporary,
        _Sliced(temporary, release) as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    return Path(path)


def checksum(columns: Columns, release: Callable[[], None] = _nothing) -> str:
    """Return the SHA-256 of the columns' names, types, shapes and bytes, whatever their order; see `write_arrow`."""
    digest = hashlib.sha256()
    for name, array in sorted(columns.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        view = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for start in range(0, len(view), _SLICE_BYTES):
            digest.update(view[start : start + _SLICE_BYTES])
            release()
    return digest.hexdigest()


def _column(array: np.ndarray[Any, Any]) -> Any:
    kind = pa.from_numpy_dtype(array.dtype)
    if kind.bit_width != 8 * array.itemsize:
        raise ValueError(f"a column of {array.dtype} cannot be mapped; store it as uint8")
    # From the buffer itself: pa.array loads pandas and the compute library, 25 MB a process.
    values = pa.Array.from_buffers(kind, array.size, [None, pa.py_buffer(np.ascontiguousarray(array))])
    return values if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, math.prod(array.shape[1:]))


@dataclass(frozen=True, eq=False)
class ArrowTable:
    """A memory-mapped Arrow file.

    Attributes:
        columns: Read-only zero-copy views, (rows,) or (rows, width). Copy them before you give them to PyTorch:
            writing to an alias of the map ends the process.
        metadata: Of the schema.
    """

    columns: Columns
    metadata: Mapping[str, str]
    _pages: mmap.mmap | None

    def rows(self, name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Return a writable copy of rows ``start`` to ``stop`` of one column.

        Pages of a map are unmapped again, so that they never count as this process's memory; the page cache holds
        them for all processes.
        """
        copy = self.columns[name][start:stop].copy()
        self.release()
        return copy

    def release(self) -> None:
        """Unmap the pages that were read; they come back when they are read again."""
        if self._pages is not None:
            self._pages.madvise(mmap.MADV_DONTNEED)


def open_arrow(path: AnyPath) -> ArrowTable:
    """Map a file of `write_arrow`, without reading its values."""
    try:
        with open_regular(path) as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # refuses an empty file
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    return parse_arrow(pages, str(path))


def parse_arrow(pages: mmap.mmap | np.ndarray[Any, Any], name: str) -> ArrowTable:
    """Return the table in the bytes of a file of `write_arrow`, without copying them."""
    try:
        batch = read_batch(pa.py_buffer(pages))
        metadata = {k.decode(): v.decode() for k, v in (batch.schema.metadata or {}).items()}
        columns = {key: _view(batch.column(key), batch.num_rows) for key in batch.schema.names}
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{name} cannot be read ({' '.join(str(error).split())})") from error
    return ArrowTable(columns, metadata, pages if isinstance(pages, mmap.mmap) else None)


def _view(column: Any, rows: int) -> np.ndarray[Any, Any]:
    # From the buffer itself: to_numpy would load pandas and the compute library too.
    values = column.values if pa.types.is_fixed_size_list(column.type) else column
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)) or values.buffers()[0] is not None:
        raise ValueError("a column holds nulls, or is not of plain numbers")
    dtype = np.dtype(values.type.to_pandas_dtype())
    count = rows if values is column else rows * column.type.list_size
    if count == 0:
        raise ValueError("it has no rows")
    view = np.frombuffer(values.buffers()[1], dtype, count, values.offset * dtype.itemsize)
    return view if values is column else view.reshape(rows, column.type.list_size)
