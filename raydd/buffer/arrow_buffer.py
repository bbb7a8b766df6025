"""The trajectory buffer: a folder with a manifest and one memory-mapped Arrow file an expert.

Each expert file describes itself; the manifest's list of them is an index that `refresh_manifest` derives.
Shapes: see `raydd.buffer.expert_file`.
"""

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from raydd.buffer.expert_file import ExpertTrajectory, expert_numbers, expert_path, open_expert, unpack_legs
from raydd.buffer.manifest import manifest_entry, read_manifest, write_manifest
from raydd.buffer.precision import FULL, STORAGES
from raydd.buffer.segments import Segment, draw
from raydd.buffer.spec import BufferSpec
from raydd.io.arrow_file import ArrowTable
from raydd.io.files import AnyPath, sweep

_FOREIGN = re.compile(r"expert-\d+\.arrow|(preprocessing|synset)\.arrow|(config|space)\.yaml")
OPEN_FILES = 256  # files that a buffer maps at once; the usual limit of a process is 1024


def stored_experts(folder: AnyPath) -> list[int]:
    """Return the numbers of the experts whose files are in a folder, ascending."""
    return expert_numbers(path.name for path in Path(folder).iterdir())


def create_buffer(folder: AnyPath, spec: BufferSpec) -> Path:
    """Make a buffer's folder and manifest, or check that the existing one has the same spec; return the folder."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        if others := sorted(each.name for each in path.parent.glob("*") if _FOREIGN.fullmatch(each.name)):
            raise ValueError(f"{folder} holds {others[0]} without a manifest.json: name a new folder, or an empty one")
        write_manifest(folder, spec, [])
    elif difference := read_manifest(folder)[0].difference(spec):
        raise ValueError(f"{folder} holds another buffer: {difference}; use the same settings, or another --out")
    return path.parent


def open_stored(folder: AnyPath, index: int, spec: BufferSpec) -> ArrowTable:
    """Map one expert's file, after checking everything but its values."""
    remedy = f"see `raydd buffer verify {folder}`, and run `raydd experts` again to retrain it"
    return open_expert(expert_path(folder, index), index, spec, remedy)


def complete_experts(folder: AnyPath, spec: BufferSpec) -> set[int]:
    """Return the complete experts of a buffer, after removing the temporary files of dead writers.

    A file that is cut short, corrupted or of another spec is renamed to ``*.bad``. Values are not read, see
    `raydd.buffer.verification`.
    """
    sweep(folder)
    complete = set()
    for index in stored_experts(folder):
        try:
            open_stored(folder, index, spec)
            complete.add(index)
        except ValueError:
            path = expert_path(folder, index)
            os.replace(path, f"{path}.bad")
    return complete


def refresh_manifest(folder: AnyPath) -> None:
    """Write the manifest's list of experts from the files, and remove the temporary files of dead writers."""
    sweep(folder)
    spec, _ = read_manifest(folder)
    entries = [
        manifest_entry(expert_path(folder, index), index, open_stored(folder, index, spec))
        for index in stored_experts(folder)
    ]
    write_manifest(folder, spec, entries)


class ArrowBuffer:
    """A `TrajectorySource` over a buffer's folder; opens in milliseconds, whatever its size.

    Files are memory-mapped when first needed; tensors are copies; it pickles as its path.

    Args:
        folder: The buffer's.
        most: The number of experts to use, from the first; None uses all.

    Attributes:
        folder: As given.
        spec: What the buffer is of.
        experts: The experts' numbers, ascending.
        epochs: The epoch of every expert's last snapshot, K.
        parameters: The number of parameters, P.
        layout: Where each parameter tensor lies in theta (P,).
        kept: The epochs whose snapshots a convexified buffer stores; None if all are there.

    Raises:
        ValueError: No such folder or manifest, no experts, or an expert file missing or cut short.
    """

    def __init__(self, folder: AnyPath, most: int | None = None) -> None:
        self.folder, self._most = Path(folder), most
        self.spec, entries = read_manifest(folder)
        self.experts = tuple(sorted({*stored_experts(folder), *entries}))[:most]
        self._tables: dict[int, ArrowTable] = {}
        if not self.experts:
            raise ValueError(f"{folder} holds no experts; train some with `raydd experts --out {folder}`")
        for index in self.experts:
            path, entry = expert_path(folder, index), entries.get(index)
            if entry is None or not path.exists() or path.stat().st_size != entry["bytes"]:
                self._table(index)  # raises unless the file is newer than the manifest and whole
        rows = min(entries[i]["snapshots"] if i in entries else self._rows(i) for i in self.experts)
        self.kept, self.layout = self.spec.kept, self.spec.layout
        self.epochs = self.kept[-1] if self.kept else rows - 1
        self.parameters = self.spec.parameters

    def __reduce__(self) -> tuple[type["ArrowBuffer"], tuple[Path, int | None]]:
        return ArrowBuffer, (self.folder.absolute(), self._most)

    def _table(self, expert: int) -> ArrowTable:
        if expert not in self._tables:
            if len(self._tables) >= OPEN_FILES:
                self._tables.clear()
            self._tables[expert] = self._open_table(expert)
        return self._tables[expert]

    def _open_table(self, expert: int) -> ArrowTable:  # a subclass on a cluster opens it elsewhere
        return open_stored(self.folder, expert, self.spec)

    def _rows(self, expert: int) -> int:
        return len(self._table(expert).columns["epoch"])

    def _row(self, expert: int, epoch: int) -> int:
        """Return the row of an epoch's snapshot in an expert's file."""
        known = range(self._rows(expert)) if self.kept is None else self.kept
        if epoch in known:
            return known.index(epoch)
        if self.kept is None:
            raise ValueError(f"epoch {epoch} is not one of 0 to {self.epochs}, the snapshots of {self.folder}")
        epochs = ", ".join(map(str, self.kept))
        raise ValueError(f"epoch {epoch} is not one of {epochs}, which {self.folder} keeps; use a full buffer")

    def _copy(self, column: str, expert: int, start: int, stop: int) -> Tensor:
        rows = self._table(expert).rows(column, start, stop)
        return STORAGES[self.spec.storage].widen(rows) if column == "theta" else torch.from_numpy(rows)

    def segment(
        self, window: tuple[float, float], span: int, rng: torch.Generator, *, between: bool = False
    ) -> Segment:
        """Draw a segment, reading only its snapshots; see `TrajectorySource`.

        Raises:
            ValueError: The window reaches beyond the experts, the file is broken, or the buffer is convexified.
        """
        if self.kept is not None:
            raise ValueError(f"{self.folder} is convexified (MCT): use --method mct, or a full buffer")
        position, t = draw(window, span, len(self.experts), self.epochs, rng)
        expert = self.experts[position]
        inside = self._copy("theta", expert, t + 1, t + span) if between else None
        return Segment(self.snapshot(expert, t), self.snapshot(expert, t + span), float(t), inside, expert)

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """Return an expert's parameters (P,) after an epoch; refuse an epoch without a snapshot."""
        row = self._row(expert, epoch)
        return self._copy("theta", expert, row, row + 1)[0]

    def running_stats(self, expert: int, epoch: float) -> Tensor:
        """Return an expert's BatchNorm running statistics (Q,) after an epoch; empty without BatchNorm."""
        row = self._row(expert, int(epoch))
        return self._copy("buffers", expert, row, row + 1)[0] if self.spec.buffer_layout else torch.zeros(0)

    def norms(self, expert: int) -> Tensor:
        """Return how far each parameter tensor went in each epoch, (K+1, L), float64; row 0 is zero."""
        if self.kept is None:
            return self._copy("step_norm", expert, 0, self.epochs + 1)
        return torch.from_numpy(unpack_legs(self._table(expert).rows("leg", 0, len(self.kept)), self.kept))

    def part(self, expert: int, epochs: tuple[int, ...]) -> ExpertTrajectory:
        """Return an expert's trajectory at some epochs, as a convexified buffer stores it."""
        indices = [self._row(expert, epoch) for epoch in epochs]

        def rows(column: str) -> Tensor:
            return torch.cat([self._copy(column, expert, row, row + 1) for row in indices])

        accuracy, train_loss = rows("accuracy").tolist(), rows("train_loss").tolist()
        buffers, norms = rows("buffers") if self.spec.buffer_layout else None, self.norms(expert).numpy()
        rounding = None if self.spec.storage == FULL else rows("rounding").numpy()
        return ExpertTrajectory(rows("theta"), buffers, epochs, accuracy, train_loss, norms, rounding)

    @property
    def accuracy(self) -> Tensor:
        """The validation accuracy of every snapshot, (E, T), float64; NaN where not measured."""
        return self._column("accuracy")

    @property
    def train_loss(self) -> Tensor:
        """The mean training loss of the epoch before every snapshot, (E, T), float64; NaN where not measured."""
        return self._column("train_loss")

    def _column(self, name: str) -> Tensor:
        rows = len(self.kept) if self.kept else self.epochs + 1
        return torch.stack([self._copy(name, expert, 0, rows) for expert in self.experts])

    @property
    def rounding(self) -> dict[str, float] | None:
        """The largest relative errors of storing less than float32, of a number and of a snapshot; None for float32."""
        if self.spec.storage == FULL:
            return None
        worst = torch.stack([self._copy("rounding", expert, 0, self._rows(expert)).amax(0) for expert in self.experts])
        return dict(zip(("number", "snapshot"), worst.amax(0).tolist(), strict=True))

    def expect(
        self, *, fingerprint: str | None = None, preprocessing_hash: str | None = None, network: str | None = None
    ) -> None:
        """Check that the buffer fits a data set, preprocessing and network; None is not checked.

        Raises:
            ValueError: It is of another data set, preprocessing or network; both are named.
        """
        wanted = {"network": network, "fingerprint": fingerprint, "preprocessing_hash": preprocessing_hash}
        for name, value in wanted.items():
            actual = getattr(self.spec, name)
            if value not in (None, actual):
                of = f"{self.spec.network} on {self.spec.dataset}"
                remedy = "give the matching --buffer, or train one with `raydd experts`"
                raise ValueError(f"{self.folder} (of {of}) has {name} {actual!r}, not {value!r}; {remedy}")
