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
    metadata = json.loads(json.dumps(metadata))  # as it will be read
    rows = [
        (name, str(value.dtype).removeprefix("torch."), list(value.shape), _raw(value))
        for name, value in tensors.items()
    ]
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    text = json.dumps({"metadata": metadata, "sha256": _digest(metadata, rows)}, sort_keys=True)
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
            table.validate(full=True)
            rows = list(zip(*(_values(table, field.name) for field in _SCHEMA), strict=True))
        header = json.loads(table.schema.metadata[b"raydd"])
        metadata, digest = header["metadata"], header["sha256"]
        whole = _digest(metadata, rows) == digest
    except (pa.ArrowException, ValueError, TypeError, AttributeError, LookupError, OSError, MemoryError):
        raise ValueError(f"{path} is not a complete raydd file; make it again") from None
    if not whole:
        raise ValueError(f"{path} is corrupted: its bytes do not match its checksum; make it again")
    return {name: _tensor(raw, _DTYPES[dtype], shape) for name, dtype, shape, raw in rows}, metadata


def _values(table: pa.Table, name: str) -> list[Any]:
    """A column's values; those of ``data`` as buffers, not as copies."""
    column = table.column(name)
    return [value.as_buffer() for value in column] if name == "data" else column.to_pylist()


def flatten_tree(tree: dict[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by path, with slashes, and everything else in the tree's own shape."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Tensor):
            tensors[prefix + key] = value
        elif isinstance(value, dict):
            below, plain[key] = flatten_tree(value, f"{prefix}{key}/")
            tensors |= below
        else:
            plain[key] = value
    return tensors, plain


def unflatten_tree(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    """The tree that `flatten_tree` took apart."""
    tree = json.loads(json.dumps(plain))
    for name, value in tensors.items():
        *folders, key = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[key] = value
    return tree  # type: ignore[no-any-return]


def _raw(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor(raw: Any, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not len(raw):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


def _digest(metadata: Any, rows: list[Any]) -> str:
    """sha256 of all that a file says: its metadata, and each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, dtype, shape, raw in rows:
        digest.update(f"|{name!r} {dtype} {shape}|".encode())
        digest.update(raw)
    return digest.hexdigest()
