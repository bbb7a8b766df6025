"""The single record batch of an Arrow file, read without trusting the sizes that the file declares.

Its arrays are views of the file's bytes; compressed files, which could unpack to any size, are refused.
"""

import struct
from typing import Any

import pyarrow as pa

_HEAD, _TAIL = b"ARROW1\0\0", b"ARROW1"
_HEADER, _COMPRESSION = 2, 3  # fields of the tables Message and RecordBatch in Arrow's format


def read_batch(data: pa.Buffer) -> pa.RecordBatch:
    """Return the record batch of a file, validated, without nulls; its arrays are views of ``data``."""
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
