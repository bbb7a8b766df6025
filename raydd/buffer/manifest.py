"""A trajectory buffer's manifest: its spec, and an index of its expert files."""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from raydd.buffer.spec import SCHEMA, BufferSpec
from raydd.io.arrow_file import ArrowTable
from raydd.io.bounded_file import read_bytes
from raydd.io.document import Document, Finite, Tree, Whole, parse, validate, without_checksum, write_document
from raydd.io.files import AnyPath

_REMEDY = "delete it and run `raydd experts` again, which keeps the experts that are there"
Index = dict[int, Tree]


class _Rounding(Document, extra="forbid"):
    number: Finite
    snapshot: Finite


class _Entry(Document, extra="forbid"):
    index: Whole
    file: str
    checksum: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    accuracy: Finite | None
    snapshots: Annotated[int, Field(gt=0, lt=2**31)]
    bytes: Whole
    rounding: _Rounding | None = None

    @model_validator(mode="after")
    def _own_file(self) -> "_Entry":
        if self.file != f"expert-{self.index:05d}.arrow":
            raise ValueError(f"expert {self.index} is not in the file {self.file[:80]!r}")
        return self


class _Manifest(Document):
    spec: BufferSpec
    experts: tuple[_Entry, ...]

    @model_validator(mode="after")
    def _once(self) -> "_Manifest":
        if len({entry.index for entry in self.experts}) != len(self.experts):
            raise ValueError("an expert is there twice")
        return self


def write_manifest(folder: AnyPath, spec: BufferSpec, experts: list[Tree]) -> None:
    """Write a buffer's manifest, atomically; ``experts`` are of `manifest_entry`."""
    write_document(Path(folder) / "manifest.json", {"spec": spec.to_json(), "experts": experts})


def read_manifest(folder: AnyPath) -> tuple[BufferSpec, Index]:
    """Return a buffer's spec, and its index by the experts' numbers."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        what = "is not a trajectory buffer: it has no manifest.json" if Path(folder).is_dir() else "does not exist"
        raise ValueError(f"{folder} {what}; make a buffer with `raydd experts --out {folder}`")
    try:
        data = read_bytes(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is corrupted ({error}); {_REMEDY}") from None
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, name: str) -> tuple[BufferSpec, Index]:
    """Return the spec and the index in a manifest's bytes; ``name`` is the file's, for errors."""
    try:
        tree = parse(data)
        version = tree["spec"]["schema_version"] if isinstance(tree, dict) else None
        if not isinstance(version, int) or version == SCHEMA:
            spec = validate(_Manifest, tree).spec
            without_checksum(tree)
            return spec, {entry["index"]: entry for entry in tree["experts"]}
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{name} is corrupted ({' '.join(str(error).split())}); {_REMEDY}") from None
    raise ValueError(f"{name} has schema version {version}; this raydd reads {SCHEMA}: use a matching raydd")


def manifest_entry(path: Path, index: int, table: ArrowTable) -> dict[str, Any]:
    """Return the index's entry of one expert's file.

    It has ``rounding`` if theta is stored in less than float32: the largest of the snapshots' relative errors, see
    `raydd.buffer.precision.narrow_theta`.
    """
    accuracy, rounding = table.columns["accuracy"], table.columns.get("rounding")
    entry = {
        "index": index,
        "file": path.name,
        "checksum": table.metadata["checksum"],
        "accuracy": None if math.isnan(accuracy[-1]) else float(accuracy[-1]),
        "snapshots": len(accuracy),
        "bytes": path.stat().st_size,
    }
    if rounding is None:
        return entry
    number, snapshot = (float(worst) for worst in rounding.max(axis=0))
    return entry | {"rounding": {"number": number, "snapshot": snapshot}}
