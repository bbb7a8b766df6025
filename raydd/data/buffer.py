"""The trajectory buffer: a folder with a manifest and one memory-mapped Arrow file an expert.

The expert files are the truth, each self-describing; the manifest's list of them is an index that
`refresh_manifest` derives. Shapes: see `raydd.data.trajectory`.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydd.data.files import AnyPath, ArrowTable, checksum, open_arrow, sweep, write_arrow, write_atomic
from raydd.data.trajectory import SCHEMA, BufferSpec, ExpertTrajectory, Segment, draw, misfit, not_finite

_FILE = re.compile(r"expert-(\d{5,})\.arrow")


class Problem(NamedTuple):
    """One thing wrong with a buffer: the file's name, and what is wrong with it."""

    file: str
    what: str


def expert_path(folder: AnyPath, index: int) -> Path:
    """The file of expert ``index``."""
    return Path(folder) / f"expert-{index:05d}.arrow"


def _present(folder: AnyPath) -> list[int]:
    matches = (_FILE.fullmatch(path.name) for path in Path(folder).iterdir())
    return sorted(int(match[1]) for match in matches if match)


def create_buffer(folder: AnyPath, spec: BufferSpec) -> Path:
    """Make a buffer's folder and manifest, or check that the one there is of the same spec.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds a buffer of another spec; the first difference is named.
    """
    path = Path(folder) / "manifest.json"
    if not path.exists():
        _write_manifest(path, spec, [])
    elif difference := _manifest(folder)[0].difference(spec):
        raise ValueError(f"{folder} holds another buffer: {difference}; use the same settings, or another --out")
    return path.parent


def _write_manifest(path: Path, spec: BufferSpec, experts: list[dict[str, Any]]) -> None:
    text = json.dumps({"spec": spec.to_json(), "experts": experts}, indent=1, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def _manifest(folder: AnyPath) -> tuple[BufferSpec, dict[int, dict[str, Any]]]:
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        what = "is not a trajectory buffer: it has no manifest.json" if Path(folder).is_dir() else "does not exist"
        raise ValueError(f"{folder} {what}; make a buffer with `raydd experts --out {folder}`")
    try:
        values = json.loads(path.read_bytes())
        version = values["spec"]["schema_version"]
        if version == SCHEMA:
            return BufferSpec.from_json(values["spec"]), {entry["index"]: entry for entry in values["experts"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "delete it and run `raydd experts` again, which keeps the experts that are there"
        raise ValueError(f"{path} is corrupted; {remedy}") from error
    raise ValueError(f"{path} has schema version {version}; this raydd reads {SCHEMA}: use a matching raydd")


def write_expert(folder: AnyPath, spec: BufferSpec, index: int, trajectory: ExpertTrajectory) -> Path:
    """Write one expert's file, atomically; the same trajectory gives the same bytes.

    Args:
        folder: The buffer's.
        spec: The buffer's.
        index: The expert's number.
        trajectory: With theta (T, P) of ``spec.layout`` and buffers (T, Q) of ``spec.buffer_layout``.

    Returns:
        The file.

    Raises:
        ValueError: The shapes are not the spec's, or the expert diverged.
    """
    columns = trajectory.columns(spec.layout)
    if what := misfit(columns, spec):
        raise ValueError(f"expert {index} does not fit its buffer: {what}; use the network of the spec")
    if what := not_finite(columns):
        raise ValueError(f"expert {index} diverged: {what}; lower the experts' learning rate")
    identity = json.dumps(spec.to_json(), sort_keys=True)
    metadata = {"expert": str(index), "checksum": checksum(columns), "spec": identity}
    return write_arrow(expert_path(folder, index), columns, metadata)


def _open(folder: AnyPath, index: int, spec: BufferSpec) -> ArrowTable:
    """Map one expert's file, after checking everything but its values."""
    path = expert_path(folder, index)
    remedy = f"see `raydd buffer verify {folder}`, and run `raydd experts` again to retrain it"
    try:
        table = open_arrow(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from error
    if what := misfit(table.columns, spec) or _foreign(table, index, spec):
        raise ValueError(f"{path} does not fit the manifest ({what}); {remedy}")
    return table


def _foreign(table: ArrowTable, index: int, spec: BufferSpec) -> str | None:
    try:
        if int(table.metadata["expert"]) != index or len(table.metadata["checksum"]) != 64:
            return f"expert is {table.metadata['expert']}"
        return BufferSpec.from_json(json.loads(table.metadata["spec"])).difference(spec)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "metadata is corrupted"


def finished(folder: AnyPath, spec: BufferSpec) -> set[int]:
    """The experts that a buffer already has, after removing what dead writers left.

    A file that is cut short, corrupted or of another spec is renamed to ``*.bad`` and not counted.
    Values are not read; `verify` does.
    """
    sweep(folder)
    whole = set()
    for index in _present(folder):
        try:
            _open(folder, index, spec)
            whole.add(index)
        except ValueError:
            path = expert_path(folder, index)
            os.replace(path, f"{path}.bad")
    return whole


def refresh_manifest(folder: AnyPath) -> None:
    """Write the manifest's list of experts anew, from the files.

    Raises:
        ValueError: A file cannot be read; `finished` sets those aside.
    """
    spec, _ = _manifest(folder)
    entries = [_entry(folder, index, _open(folder, index, spec)) for index in _present(folder)]
    _write_manifest(Path(folder) / "manifest.json", spec, entries)


def _entry(folder: AnyPath, index: int, table: ArrowTable) -> dict[str, Any]:
    path, accuracy = expert_path(folder, index), table.columns["accuracy"]
    return {
        "index": index,
        "file": path.name,
        "checksum": table.metadata["checksum"],
        "accuracy": None if math.isnan(accuracy[-1]) else float(accuracy[-1]),
        "snapshots": len(accuracy),
        "bytes": path.stat().st_size,
    }


class ArrowBuffer:
    """A `TrajectorySource` over a buffer's folder; opens in milliseconds, whatever its size.

    Files are memory-mapped when first needed; tensors come out as copies; it pickles as its path.

    Args:
        folder: The buffer's.
        most: Use the first so many experts; None uses all.

    Attributes:
        folder: As given.
        spec: What the buffer is of.
        experts: The numbers of the experts that are there, ascending.
        epochs: The epoch of every expert's last snapshot, K.
        parameters: The number of parameters, P.

    Raises:
        ValueError: No such folder or manifest, no experts, or an expert file missing or cut short.
    """

    def __init__(self, folder: AnyPath, most: int | None = None) -> None:
        self.folder, self._most = Path(folder), most
        self.spec, entries = _manifest(folder)
        self.experts = tuple(sorted({*_present(folder), *entries}))[:most]
        self._tables: dict[int, ArrowTable] = {}
        if not self.experts:
            raise ValueError(f"{folder} holds no experts; train some with `raydd experts --out {folder}`")
        for index in self.experts:
            path, entry = expert_path(folder, index), entries.get(index)
            if entry is None or not path.exists() or path.stat().st_size != entry["bytes"]:
                self._table(index)  # raises unless the file is newer than the manifest and whole
        self.epochs = min(entries[i]["snapshots"] if i in entries else self._rows(i) for i in self.experts) - 1
        self.parameters = sum(slot.numel for slot in self.spec.layout)

    def __reduce__(self) -> tuple[type["ArrowBuffer"], tuple[Path, int | None]]:
        return ArrowBuffer, (self.folder.absolute(), self._most)

    def _table(self, expert: int) -> ArrowTable:
        if expert not in self._tables:
            self._tables[expert] = _open(self.folder, expert, self.spec)
        return self._tables[expert]

    def _rows(self, expert: int) -> int:
        return len(self._table(expert).columns["epoch"])

    def _copy(self, column: str, expert: int, start: int, stop: int) -> Tensor:
        if not 0 <= start <= stop <= self._rows(expert):
            raise ValueError(f"epoch {start} is not one of 0 to {self.epochs}, the snapshots of {self.folder}")
        return torch.from_numpy(self._table(expert).rows(column, start, stop))

    def segment(
        self, window: tuple[float, float], span: int, rng: torch.Generator, *, between: bool = False
    ) -> Segment:
        """Draw a segment, reading only its snapshots; see `TrajectorySource`.

        Raises:
            ValueError: The window reaches beyond the experts, or the expert's file is broken.
        """
        position, t = draw(window, span, len(self.experts), self.epochs, rng)
        expert = self.experts[position]
        inside = self._copy("theta", expert, t + 1, t + span) if between else None
        return Segment(self.snapshot(expert, t), self.snapshot(expert, t + span), float(t), inside, expert)

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """An expert's parameters (P,) after an epoch."""
        return self._copy("theta", expert, epoch, epoch + 1)[0]

    def running_stats(self, expert: int, epoch: int) -> Tensor:
        """An expert's BatchNorm running statistics (Q,) after an epoch; empty without BatchNorm."""
        return self._copy("buffers", expert, epoch, epoch + 1)[0] if self.spec.buffer_layout else torch.zeros(0)

    @property
    def accuracy(self) -> Tensor:
        """Validation accuracy of every snapshot, (E, T), float64; NaN where not measured."""
        return torch.cat([self._copy("accuracy", expert, 0, self.epochs + 1)[None] for expert in self.experts])

    def expect(
        self, *, fingerprint: str | None = None, preprocessing_hash: str | None = None, network: str | None = None
    ) -> None:
        """Check that the buffer is of what it is used with; None is not checked.

        Raises:
            ValueError: It is of another data set, preprocessing or network; both are named.
        """
        wanted = {"network": network, "fingerprint": fingerprint, "preprocessing_hash": preprocessing_hash}
        for name, value in wanted.items():
            found = getattr(self.spec, name)
            if value not in (None, found):
                of = f"{self.spec.network} on {self.spec.dataset}"
                remedy = "give the matching --buffer, or train one with `raydd experts`"
                raise ValueError(f"{self.folder} (of {of}) has {name} {found!r}, not {value!r}; {remedy}")


def verify(folder: AnyPath) -> list[Problem]:
    """Read every byte of a buffer and report what is wrong; an empty list is a whole buffer.

    Raises:
        ValueError: There is no such buffer.
    """
    spec, entries = _manifest(folder)
    indices = sorted({*_present(folder), *entries})
    found = ((expert_path(folder, index).name, _wrong(folder, index, spec, entries.get(index))) for index in indices)
    return [Problem(file, what) for file, what in found if what]


def _wrong(folder: AnyPath, index: int, spec: BufferSpec, entry: dict[str, Any] | None) -> str | None:
    try:
        table = _open(folder, index, spec)
    except ValueError as error:
        return str(error)
    if checksum(table.columns) != table.metadata["checksum"]:
        return "its values changed since it was written (checksum): delete it and run `raydd experts` again"
    if entry and (now := _entry(folder, index, table)) != entry:
        what = next(f"{key} is {now[key]} instead of {entry[key]}" for key in now if now[key] != entry.get(key))
        return f"it does not fit the manifest ({what}): run `raydd experts` again"
    return not_finite(table.columns)


def describe(folder: AnyPath) -> dict[str, Any]:
    """A buffer in JSON-able words; accuracies are fractions, their std that over the experts (ddof 0)."""
    buffer = ArrowBuffer(folder)
    spreads = [{"mean": float(a.mean()), "std": float(a.std(correction=0))} for a in buffer.accuracy.T]
    first, last = (None if math.isnan(spreads[t]["mean"]) else spreads[t] for t in (0, -1))
    named = ("dataset", "fingerprint", "network", "channels", "size", "classes", "recipe", "seed")
    return {
        **{name: getattr(buffer.spec, name) for name in named},
        "preprocessing": buffer.spec.preprocessing.get("kind"),
        "experts": len(buffer.experts),
        "epochs": buffer.epochs,
        "parameters": buffer.parameters,
        "bytes": sum(expert_path(folder, index).stat().st_size for index in buffer.experts),
        "accuracy": {"first": first, "last": last},
    }
