"""Arrow files of one record batch, which are mapped into memory and read without trusting the sizes they declare.

The arrays of a batch are views of the file's bytes; compressed files, which could unpack to any size, are refused.
"""

import hashlib
import io
import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raydd.io.bounded_file import open_regular
from raydd.io.files import AnyPath, atomic_path

Columns = Mapping[str, np.ndarray[Any, Any]]

_HEAD, _TAIL = b"ARROW1\0\0", b"ARROW1"
_HEADER, _COMPRESSION = 2, 3  # fields of the tables Message and RecordBatch in Arrow's format
_SLICE_BYTES = 16 << 20


def map_file(path: AnyPath) -> mmap.mmap:
    """Map a regular file into memory; an empty one is refused."""
    with open_regular(path) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_batch(pages: Any) -> pa.RecordBatch:
    """Return the record batch in the bytes of a file, validated, without nulls; its arrays are views of them."""
    data = pa.py_buffer(pages)
    if data.size < 64 or bytes(data[:8]) != _HEAD or bytes(data[-6:]) != _TAIL:
        raise ValueError("it is no Arrow file, or cut short")
    try:
        schema, body = _messages(data.slice(8))
        if _field(body.metadata, _HEADER, _COMPRESSION):
            raise ValueError("it is compressed")
        batch = pa.ipc.read_record_batch(body, pa.ipc.read_schema(schema))
        batch.validate(full=True)
    except (pa.ArrowException, OSError, TypeError, LookupError, MemoryError, struct.error) as error:
        raise ValueError(" ".join(str(error).split())[:200] or "it is corrupted") from None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count or column.buffers()[0] is not None:
            raise ValueError(f"column {name[:80]} holds nulls")
    if len({*batch.schema.names}) != batch.num_columns:
        raise ValueError("it has a column twice")
    return batch


def _messages(stream: pa.Buffer) -> list[Any]:
    """Return the two messages of a stream: its schema and its record batch."""
    messages: list[Any] = []
    for message in pa.ipc.MessageReader.open_stream(stream):
        messages.append(message)
        if [one.type for one in messages] not in (["schema"], ["schema", "record batch"]):
            raise ValueError(f"it has a {message.type} in the wrong place")
    if len(messages) != 2:
        raise ValueError("it has no record batch")
    return messages


def _field(message: Any, *path: int) -> int:
    """Return the position of a field in a flatbuffer, reached through tables; 0 if it is absent."""
    raw = bytes(message)
    at: int = struct.unpack_from("<I", raw, 0)[0]
    for step, field in enumerate(path, 1):
        index = at - struct.unpack_from("<i", raw, at)[0]
        slot = index + 4 + 2 * field
        inside = slot + 2 <= index + struct.unpack_from("<H", raw, index)[0]
        offset: int = struct.unpack_from("<H", raw, slot)[0] if inside else 0
        if not offset:
            return 0
        at += offset
        if step < len(path):
            at += struct.unpack_from("<I", raw, at)[0]
    return at


class _Sliced(io.FileIO):
    """A file that takes large buffers in slices, and releases the source's pages after each."""

    def __init__(self, path: Path, release: Callable[[], None]) -> None:
        super().__init__(path, "wb")
        self._release = release

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _SLICE_BYTES):
            piece = view[start : start + _SLICE_BYTES]
            while piece:  # the system may take less than it is given
                piece = piece[super().write(piece) :]
            self._release()
        return len(view)


def write_arrow(
    path: AnyPath, columns: Columns, metadata: Mapping[str, str], release: Callable[[], None] = lambda: None
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


def checksum(columns: Columns, release: Callable[[], None] = lambda: None) -> str:
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
        pages = map_file(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    return parse_arrow(pages, str(path))


def parse_arrow(pages: mmap.mmap | np.ndarray[Any, Any], name: str) -> ArrowTable:
    """Return the table in the bytes of a file of `write_arrow`, without copying them."""
    try:
        batch = read_batch(pages)
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
