"""Write an expert into a buffer a snapshot at a time, so that no process holds the whole of it.

Shapes: `P` parameters, `Q` running statistics, `L` parameter tensors, `T` rows of a file.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from torch import Tensor

from raydd.buffer.expert_file import Array, check_finite, expert_columns, expert_path, step_norm, write_columns
from raydd.buffer.precision import FULL, STORAGES, narrow_theta
from raydd.buffer.spec import BufferSpec
from raydd.io.files import AnyPath, temporary_path

PIECE_BYTES = 16 << 20
HELD = ("norm", "buffers", "rounding")
"""Values of a row that a writer holds until its end; theta is in its file."""


class Row(NamedTuple):
    """The values of one epoch in a buffer.

    Attributes:
        epoch: The epoch.
        accuracy: On the validation split, a fraction; NaN where there is none.
        train_loss: Of the epoch; NaN where not measured.
        norm: How far each parameter tensor went in the epoch, (L,), float64.
        theta: The snapshot (P,) in its stored format, or its first values; None if the buffer stores none.
        buffers: Running statistics (Q,), float32, of a stored snapshot.
        rounding: The errors of rounding the snapshot, (2,), float64, if less than float32 is stored.
    """

    epoch: int
    accuracy: float
    train_loss: float
    norm: Array
    theta: Array | None = None
    buffers: Array | None = None
    rounding: Array | None = None


Piece = Row | Array
"""A row with the first values of its theta, or some of the following values."""


class Rows:
    """Makes rows of an expert's snapshots, and holds only the last one, for the norms."""

    def __init__(self, spec: BufferSpec, index: int) -> None:
        self._spec, self._index = spec, index
        self._before: Array | None = None

    def row(self, theta: Tensor, buffers: Tensor, epoch: int, accuracy: float, train_loss: float) -> Row:
        """Return the row of the next epoch.

        Args:
            theta: Parameters (P,), float32, on the CPU; kept until the next call.
            buffers: Running statistics (Q,), float32.
            epoch: The epoch.
            accuracy: A fraction.
            train_loss: The epoch's.
        """
        now, spec = theta.detach().numpy(), self._spec
        norm = np.zeros(len(spec.layout)) if self._before is None else step_norm(self._before, now, spec.layout)
        self._before = now
        statistics = buffers.detach().numpy()
        values = {"theta": now[None], "buffers": statistics[None], "step_norm": norm[None]}
        check_finite(self._index, {"epoch": np.array([epoch]), **values})
        plain = Row(epoch, accuracy, train_loss, norm)
        if spec.kept is not None and epoch not in spec.kept:
            return plain
        if spec.storage == FULL:
            return plain._replace(theta=now, buffers=statistics)
        stored, rounding = narrow_theta(now, spec.storage, self._index, epoch)
        return plain._replace(theta=stored, buffers=statistics, rounding=rounding)


def pieces(row: Row, most: int = PIECE_BYTES) -> Iterator[Piece]:
    """Cut a row into pieces of at most ``most`` bytes of theta; an `ExpertWriter` takes them in this order."""
    if row.theta is None:
        yield row
        return
    count = max(1, most // row.theta.itemsize)
    yield row._replace(theta=row.theta[:count])
    for start in range(count, len(row.theta), count):
        yield row.theta[start : start + count]


class ExpertWriter:
    """Collects an expert's rows in a temporary file, and writes the expert's file from there.

    The file equals that of `raydd.buffer.expert_file.write_expert` for the whole trajectory. A killed process leaves
    the temporary file, which `raydd.io.files.sweep` removes.
    """

    def __init__(self, folder: AnyPath, spec: BufferSpec, index: int) -> None:
        self._folder, self._spec, self._index = folder, spec, index
        self._path = temporary_path(expert_path(folder, index))
        self._file = self._path.open("wb", buffering=0)
        self._rows: list[Row] = []

    def __enter__(self) -> "ExpertWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, piece: Piece) -> None:
        """Add the next row, or more of its theta."""
        values = piece.theta if isinstance(piece, Row) else piece
        if isinstance(piece, Row):
            empty = None if piece.theta is None else piece.theta[:0].copy()  # tells a stored row, without its values
            # Copies: an array of a message is a view of all of it, which would stay in the object store.
            own = {name: value.copy() for name in HELD if (value := getattr(piece, name)) is not None}
            self._rows.append(piece._replace(theta=empty, **own))
        rest = memoryview(b"" if values is None else np.ascontiguousarray(values).view(np.uint8).data)
        while rest:  # the system may take less than it is given
            rest = rest[self._file.write(rest) :]

    def finish(self) -> Path:
        """Write the expert's file, atomically, and remove the temporary one."""
        self._file.close()
        with self._path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        theta = np.frombuffer(pages, STORAGES[self._spec.storage].dtype)
        columns = self._columns(theta.reshape(-1, self._spec.parameters))
        path = write_columns(self._folder, self._spec, self._index, columns, lambda: pages.madvise(mmap.MADV_DONTNEED))
        self.close()
        return path

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _columns(self, theta: Array) -> dict[str, Array]:
        rows, spec = [row for row in self._rows if row.theta is not None], self._spec
        scores = [row.accuracy for row in rows], [row.train_loss for row in rows]
        norms = np.stack([row.norm for row in self._rows])
        columns = expert_columns(theta, [row.epoch for row in rows], scores, norms, spec.kept is not None)
        if spec.buffer_layout:
            columns["buffers"] = np.stack([row.buffers for row in rows if row.buffers is not None])
        if spec.storage != FULL:
            columns["rounding"] = np.stack([row.rounding for row in rows if row.rounding is not None])
        return columns
