"""Named tensors and JSON in one Arrow file: synthetic sets, checkpoints, preprocessing and selections of images.

Each row is a tensor (name, dtype, shape, bytes). The JSON is in the schema's metadata, beside the SHA-256 of all of it.
Nothing is ever unpickled, and reading takes no more memory than the file has bytes.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from raydd.io.arrow_file import map_file, read_batch
from raydd.io.document import Document, parse, validate
from raydd.io.files import write_atomic

_SCHEMA = pa.schema(
    [("name", pa.string()), ("dtype", pa.string()), ("shape", pa.list_(pa.int64())), ("data", pa.large_binary())]
)
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)
}
_MOST_TENSORS, _MOST_DIMENSIONS = 100_000, 16
_MOST_HEADER = 64 << 20

M = TypeVar("M", bound=BaseModel)
Tensors = dict[str, Tensor]


class _Header(Document):
    metadata: dict[str, Any]
    sha256: str


def save_tensors(path: Path, tensors: Tensors, metadata: dict[str, Any]) -> None:
    """Write tensors and metadata to ``path``, whole or not at all; equal arguments give equal bytes."""
    metadata = json.loads(json.dumps(metadata))  # as it will be read
    rows = [
        (name, str(value.dtype).removeprefix("torch."), list(value.shape), _raw(value))
        for name, value in tensors.items()
    ]
    write_atomic(path, pack_rows(rows, metadata, digest_of(metadata, rows)))


def pack_rows(rows: list[Any], metadata: Any, digest: str) -> pa.Buffer:
    """Return the bytes of a file of `save_tensors`, from its rows."""
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    text = json.dumps({"metadata": metadata, "sha256": digest}, sort_keys=True)
    schema = _SCHEMA.with_metadata({"raydd": text})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return sink.getvalue()


def load_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read a file of `save_tensors`; the tensors are copies."""
    rows, metadata, digest = _read(path)
    if digest_of(metadata, rows) != digest:
        raise ValueError(f"{path} is corrupted: its bytes do not match its checksum; make it again")
    return {name: _tensor(raw, _DTYPES[dtype], shape) for name, dtype, shape, raw in rows}, metadata


def load_checked(path: Path, kind: type[M]) -> tuple[Tensors, M, dict[str, Any]]:
    """Read a file of `save_tensors`; return its tensors, its metadata as a model, and as plain values."""
    tensors, metadata = load_tensors(path)
    try:
        return tensors, validate(kind, metadata), metadata
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); make it again") from None


def _read(path: Path) -> tuple[list[Any], dict[str, Any], str]:
    """Return a file's rows, whose bytes are views of it, its metadata and its stored checksum."""
    try:
        pages = map_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; name a file that raydd wrote") from None
    except (ValueError, OSError) as error:  # an empty one cannot be mapped
        raise ValueError(f"{path} is not a complete raydd file ({error}); make it again") from None
    try:
        batch = read_batch(pages)
        if not batch.schema.remove_metadata().equals(_SCHEMA):
            raise ValueError("it has other columns")
        text = (batch.schema.metadata or {})[b"raydd"]
        if len(text) > _MOST_HEADER:
            raise ValueError("its metadata are too large")
        header = validate(_Header, (tree := parse(text, nan=True)))
        return _rows(batch), tree["metadata"], header.sha256
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a complete raydd file ({reason}); make it again") from None


def _rows(batch: pa.RecordBatch) -> list[Any]:
    """Return name, dtype, shape and bytes of each tensor, and check that they fit each other."""
    if batch.num_rows > _MOST_TENSORS:
        raise ValueError(f"it has {batch.num_rows} tensors")
    names, dtypes = batch.column("name").to_pylist(), batch.column("dtype").to_pylist()
    rows = []
    for name, dtype, dimensions, data in zip(names, dtypes, batch.column("shape"), batch.column("data"), strict=True):
        raw = data.as_buffer()
        if dtype not in _DTYPES or len(dimensions.values) > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {name[:80]} is of type {dtype[:20]} with {len(dimensions.values)} dimensions")
        shape = dimensions.as_py()
        bound = math.prod(max(side, 1) for side in shape)  # PyTorch computes it even for an empty tensor
        if any(side < 0 for side in shape) or bound >= 2**48 or math.prod(shape) * _DTYPES[dtype].itemsize != len(raw):
            raise ValueError(f"tensor {name[:80]} of shape {shape} has {len(raw)} bytes of {dtype}")
        rows.append((name, dtype, shape, raw))
    if len({*names}) != len(names):
        raise ValueError("it has a tensor twice")
    return rows


def flatten_tree(tree: dict[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a tree's tensors by path, with slashes, and everything else in the tree's own shape."""
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
    """Undo `flatten_tree`."""
    tree = json.loads(json.dumps(plain))
    for name, value in tensors.items():
        *folders, key = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{name[:200]} is below a value that is no mapping")
        if key in branch:
            raise ValueError(f"{name[:200]} is there twice")
        branch[key] = value
    return tree  # type: ignore[no-any-return]


def _raw(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor(raw: Any, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not len(raw):
        return torch.zeros(shape, dtype=dtype)  # `_rows` has compared the bytes with the shape
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


def digest_of(metadata: Any, rows: list[Any]) -> str:
    """Return the SHA-256 of a file's metadata and of each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, dtype, shape, raw in rows:
        digest.update(f"|{name!r} {dtype} {shape}|".encode())
        digest.update(raw)
    return digest.hexdigest()
