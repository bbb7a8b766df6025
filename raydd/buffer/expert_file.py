"""The file of one trained expert: all its snapshots, or those of a convexified trajectory.

Shapes: `E` experts, `P` parameters, `Q` running statistics, `L` parameter tensors, `K` the last epoch,
`T` rows of a file (all epochs, or those that it stores), `G` the most epochs between two rows.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from raydd.buffer.precision import FULL, STORAGES, narrow_theta
from raydd.buffer.spec import BufferSpec
from raydd.io.arrow_file import ArrowTable, Columns, checksum, open_arrow, write_arrow
from raydd.io.document import parse
from raydd.io.files import AnyPath
from raydd.numerics.flat import Layout

Array = np.ndarray[Any, Any]
_FILE = re.compile(r"expert-(\d{5,12})\.arrow")
_CHECKSUM = re.compile(r"[0-9a-f]{64}")


def expert_path(folder: AnyPath, index: int) -> Path:
    """Return the file of expert ``index``."""
    return Path(folder) / f"expert-{index:05d}.arrow"


def expert_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the experts among file names, ascending."""
    return sorted(int(match[1]) for match in map(_FILE.fullmatch, names) if match)


@dataclass(frozen=True, eq=False)
class ExpertTrajectory:
    """One trained expert as a buffer stores it.

    Attributes:
        theta: Parameters at the end of each stored epoch, (T, P), float32.
        buffers: BatchNorm's running statistics there, (T, Q), float32; None or Q = 0 without.
        epochs: The epoch of each row, (T,): 0, 1, ..., K, or those of a convexified trajectory.
        accuracy: Validation accuracy of each row, a fraction, (T,); NaN where not measured.
        train_loss: Mean training loss of the epoch that ended there, (T,); NaN where not measured.
        norms: How far each parameter tensor went in each epoch, (K+1, L), float64, if ``epochs`` are those of a
            convexified trajectory; None if they are all there.
        rounding: The errors of rounding each snapshot of a buffer that stores less than float32, (T, 2), float64,
            see `raydd.buffer.precision.narrow_theta`; None measures them on writing.
    """

    theta: Tensor
    buffers: Tensor | None
    epochs: Sequence[int]
    accuracy: Sequence[float]
    train_loss: Sequence[float]
    norms: Array | None = None
    rounding: Array | None = None

    def columns(self, layout: Layout) -> dict[str, Array]:
        """Return the trajectory as arrays of T rows by column name; ``layout`` is theta's."""
        theta = self.theta.detach().cpu().contiguous().numpy()
        convexified = self.norms is not None
        norms = step_norms(theta, layout) if self.norms is None else self.norms
        columns = expert_columns(theta, self.epochs, (self.accuracy, self.train_loss), norms, convexified)
        if self.buffers is not None and self.buffers.shape[-1]:
            columns["buffers"] = self.buffers.detach().cpu().contiguous().numpy()
        return columns


def expert_columns(
    theta: Array,
    epochs: Sequence[int],
    scores: tuple[Sequence[float], Sequence[float]],
    norms: Array,
    convexified: bool,
) -> dict[str, Array]:
    """Return an expert's columns without running statistics and rounding.

    ``step_norm`` (T, L) is how far each parameter tensor went since the row before, summed over the epochs between.
    A convexified trajectory has a column ``leg`` too; see `pack_legs`.

    Args:
        theta: The snapshots (T, P).
        epochs: Of the snapshots, (T,).
        scores: Their accuracies and training losses, each (T,).
        norms: How far each parameter tensor went in each epoch, (K+1, L).
        convexified: Whether the snapshots are those of a convexified trajectory.
    """
    columns = {
        "theta": theta,
        "epoch": np.asarray(epochs, np.int32),
        "accuracy": np.asarray(scores[0], np.float64),
        "train_loss": np.asarray(scores[1], np.float64),
        "step_norm": sum_norms(norms, epochs) if convexified else norms,
    }
    return columns | {"leg": pack_legs(norms, epochs)} if convexified else columns


def step_norm(before: Array, after: Array, layout: Layout) -> Array:
    """Return the distance of each parameter tensor between one theta (P,) and another: (L,), float64.

    NumPy sums on one thread, so the result does not depend on how many a worker was given.
    """
    step = after.astype(np.float64) - before
    return np.sqrt(np.add.reduceat(step * step, [slot.offset for slot in layout]))


def step_norms(theta: Array, layout: Layout) -> Array:
    """Return how far each parameter tensor went since the snapshot before: (T, L) of (T, P), float64.

    ``norms[t, l] = ||theta_t[l] - theta_{t-1}[l]||_2``; row 0 is zero.
    """
    norms = np.zeros((len(theta), len(layout)))
    for t in range(1, len(theta)):
        norms[t] = step_norm(theta[t - 1], theta[t], layout)
    return norms


def sum_norms(norms: Array, kept: Sequence[int]) -> Array:
    """Return how far each tensor went between neighbouring stored epochs: (T, L) of all epochs' (K+1, L)."""
    summed = np.zeros((len(kept), norms.shape[1]))
    for r, (before, after) in enumerate(pairwise(kept), start=1):
        summed[r] = norms[before + 1 : after + 1].sum(axis=0)
    return summed


def _gap(kept: Sequence[int]) -> int:
    return max(after - before for before, after in pairwise(kept))


def pack_legs(norms: Array, kept: Sequence[int]) -> Array:
    """Return the norms of all epochs as a column with a row per stored epoch: (T, G L) of (K+1, L), float64.

    Row r holds the norms of epochs ``kept[r-1] + 1`` to ``kept[r]``, then zeros; row 0 is zero.
    """
    legs = np.zeros((len(kept), _gap(kept), norms.shape[1]))
    for r, (before, after) in enumerate(pairwise(kept), start=1):
        legs[r, : after - before] = norms[before + 1 : after + 1]
    return legs.reshape(len(kept), -1)


def unpack_legs(legs: Array, kept: Sequence[int]) -> Array:
    """Undo `pack_legs`: (K+1, L) of (T, G L)."""
    rows = legs.reshape(len(kept), _gap(kept), -1)
    inside = [rows[r, : after - before] for r, (before, after) in enumerate(pairwise(kept), start=1)]
    return np.concatenate([np.zeros((1, rows.shape[2])), *inside])


def misfit(columns: Columns, spec: BufferSpec) -> str | None:
    """Return how columns differ from those of a trajectory of this spec, or None."""
    rows = len(columns["theta"]) if "theta" in columns else 0
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "theta": (STORAGES[spec.storage].dtype, (rows, spec.parameters)),
        "epoch": ("int32", (rows,)),
        "accuracy": ("float64", (rows,)),
        "train_loss": ("float64", (rows,)),
        "step_norm": ("float64", (rows, len(spec.layout))),
    }
    if spec.buffer_layout:
        wanted["buffers"] = ("float32", (rows, spec.statistics))
    if spec.kept is not None:
        wanted["leg"] = ("float64", (rows, _gap(spec.kept) * len(spec.layout)))
    if spec.storage != FULL:
        wanted["rounding"] = ("float64", (rows, 2))
    actual = {name: (str(array.dtype), array.shape) for name, array in columns.items()}
    for name in {**wanted, **actual}:
        if actual.get(name) != wanted.get(name):
            return f"column {name} is {actual.get(name)} instead of {wanted.get(name)}"
    epochs = columns["epoch"].tolist()
    if spec.kept is not None:
        return None if epochs == [*spec.kept] else f"epochs are {epochs} instead of {[*spec.kept]}"
    return None if epochs and epochs == list(range(rows)) else f"epochs are {epochs} instead of 0, 1, 2, ..."


def not_finite(columns: Columns) -> str | None:
    """Return where a trajectory's columns first hold an infinity or a NaN instead of a number, or None."""
    for name in ("theta", "buffers", "step_norm", "leg"):
        for epoch, row in zip(columns["epoch"], columns.get(name, ()), strict=False):
            if not np.isfinite(row).all():
                return f"{name} is not finite at epoch {epoch}"
    return None


def write_expert(folder: AnyPath, spec: BufferSpec, index: int, trajectory: ExpertTrajectory) -> Path:
    """Write one expert's file, atomically; the same trajectory gives the same bytes.

    Args:
        folder: The buffer's.
        spec: The buffer's.
        index: The expert's number.
        trajectory: With theta (T, P) of ``spec.layout`` and buffers (T, Q) of ``spec.buffer_layout``.
    """
    columns = trajectory.columns(spec.layout)
    if what := misfit(columns, replace(spec, storage=FULL)):
        raise ValueError(f"expert {index} does not fit its buffer: {what}; use the network of the spec")
    check_finite(index, columns)
    if spec.storage != FULL:
        rows = zip(columns["theta"], columns["epoch"].tolist(), strict=True)
        stored, rounding = zip(*(narrow_theta(row, spec.storage, index, epoch) for row, epoch in rows), strict=True)
        measured = np.stack(rounding) if trajectory.rounding is None else trajectory.rounding
        columns |= {"theta": np.stack(stored), "rounding": measured}
    return write_columns(folder, spec, index, columns)


def check_finite(index: int, columns: Columns) -> None:
    """Refuse an expert that diverged: a column holds an infinity or a NaN."""
    if what := not_finite(columns):
        raise ValueError(f"expert {index} diverged: {what}; lower the experts' learning rate")


def write_columns(
    folder: AnyPath, spec: BufferSpec, index: int, columns: Columns, release: Callable[[], None] = lambda: None
) -> Path:
    """Write one expert's columns in their stored form, and refuse those of another spec; see `write_arrow`."""
    if what := misfit(columns, spec):
        raise ValueError(f"expert {index} does not fit its buffer: {what}; use the network of the spec")
    metadata = {"expert": str(index), "checksum": checksum(columns, release), "spec": _identity(spec)}
    return write_arrow(expert_path(folder, index), columns, metadata, release)


def open_expert(path: Path, index: int, spec: BufferSpec, remedy: str) -> ArrowTable:
    """Map one expert's file, after checking everything but its values."""
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
    """Return how a file's metadata differ from those of an expert of a buffer, or None."""
    expert, stored = table.metadata.get("expert"), table.metadata.get("spec", "")
    if not _CHECKSUM.fullmatch(table.metadata.get("checksum", "")):
        return "it has no checksum"
    if expert != str(index):
        return f"expert is {expert and expert[:20]}"
    if stored == _identity(spec):
        return None
    try:
        return BufferSpec.from_json(parse(stored)).difference(spec)
    except ValueError as error:
        return f"metadata is corrupted: {error}"


def _identity(spec: BufferSpec) -> str:
    """Return the spec as a file stores it."""
    return json.dumps(spec.to_json(), sort_keys=True)
