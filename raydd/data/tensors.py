"""Named tensors and JSON in one Arrow file: synthetic sets and checkpoints.

A row a tensor (name, dtype, shape, bytes); the JSON stands in the schema's metadata. Nothing is
ever unpickled.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from raydd.data.files import write_atomic

_SCHEMA = pa.schema(
    [("name", pa.string()), ("dtype", pa.string()), ("shape", pa.list_(pa.int64())), ("data", pa.large_binary())]
)
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)
}


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and metadata to ``path``, whole or not at all.

    Equal arguments give equal bytes.
    """
    rows = [
        (name, str(value.dtype).removeprefix("torch."), list(value.shape), _raw(value))
        for name, value in tensors.items()
    ]
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    digest = _digest(raw for *_, raw in rows)
    text = json.dumps({"metadata": metadata, "sha256": digest}, sort_keys=True)
    schema = _SCHEMA.with_metadata({"raydd": text})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    write_atomic(path, sink.getvalue())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; the tensors are copies.

    Raises:
        ValueError: If the file is missing, truncated, corrupted or not one of ours.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name a file that raydd wrote")
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        header = json.loads(table.schema.metadata[b"raydd"])
        raws = [value.as_buffer() for value in table.column("data")]
        names, dtypes, shapes = (table.column(key).to_pylist() for key in ("name", "dtype", "shape"))
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{path} is not a complete raydd file; make it again") from None
    if _digest(raws) != header["sha256"]:
        raise ValueError(f"{path} is corrupted: its bytes do not match its checksum; make it again")
    tensors = {
        name: _tensor(raw, _DTYPES[dtype], shape)
        for name, dtype, shape, raw in zip(names, dtypes, shapes, raws, strict=True)
    }
    return tensors, header["metadata"]


def _raw(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor(raw: Any, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not len(raw):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


def _digest(raws: Any) -> str:
    digest = hashlib.sha256()
    for raw in raws:
        digest.update(raw)
    return digest.hexdigest()
