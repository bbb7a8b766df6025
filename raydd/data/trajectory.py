"""Experts' paths through parameter space, what they are of, and the segments that methods match.

Shapes: `P` parameters, `Q` running statistics, `E` experts, `T` snapshots an expert (epochs 0 to
`K = T - 1`), `M` a segment's span in epochs, `L` parameter tensors.
"""

import dataclasses
import json
import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from raydd.data.files import Columns
from raydd.numerics.flat import Layout, Slot

SCHEMA = 1
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


class Segment(NamedTuple):
    """A piece of one expert's path; its tensors are the caller's own.

    Attributes:
        start: theta_t, (P,).
        target: theta_{t+M}, (P,).
        epoch: t; whole for stored experts.
        between: theta_{t+1} to theta_{t+M-1}, (M-1, P), or None when not asked for.
        expert: Which expert it came from.
    """

    start: Tensor
    target: Tensor
    epoch: float
    between: Tensor | None
    expert: int

    def to(self, like: Tensor) -> "Segment":
        """The same segment on the device and in the dtype of ``like``."""
        between = None if self.between is None else self.between.to(like)
        return self._replace(start=self.start.to(like), target=self.target.to(like), between=between)


class TrajectorySource(Protocol):
    """Where segments come from: a buffer on disk, tensors in memory, an object store."""

    @property
    def epochs(self) -> int:
        """The epoch of every expert's last snapshot, K."""

    @property
    def parameters(self) -> int:
        """The number of parameters, P."""

    def segment(
        self, window: tuple[float, float], span: int, rng: torch.Generator, *, between: bool = False
    ) -> Segment:
        """Draw a segment.

        Args:
            window: The closed range (low, high) of start epochs.
            span: M, in epochs.
            rng: A CPU generator.
            between: Whether the snapshots strictly inside the segment are wanted.
        """


def check_window(window: tuple[float, float], span: int, epochs: int) -> None:
    """Refuse a window of start epochs that reaches beyond the experts.

    Args:
        window: The closed range (low, high) of start epochs.
        span: M, in epochs.
        epochs: The epoch of the experts' last snapshot.

    Raises:
        ValueError: The window is empty, starts before 0, or ends after ``epochs - span``.

    >>> check_window((0, 18), 2, 20)
    >>> check_window((0, 19), 2, 20)
    Traceback (most recent call last):
    ValueError: window (0, 19) with a span of 2 epochs needs experts of 21 epochs but they have 20; \
end the window at 18 or earlier, or train longer experts
    """
    low, high = window
    shown = f"window ({low:g}, {high:g})"
    if span < 1:
        raise ValueError(f"a span of {span} epochs is too short; use at least 1")
    if span > epochs:
        remedy = f"use a span of at most {epochs}, or train longer experts"
        raise ValueError(f"a span of {span} epochs is longer than the experts' {epochs}; {remedy}")
    if not 0 <= low <= high or math.ceil(low) > math.floor(high):
        raise ValueError(f"{shown} holds no epoch; use 0 <= low <= high, for example (0, {epochs - span})")
    if high + span > epochs:
        remedy = f"end the window at {epochs - span} or earlier, or train longer experts"
        needs = f"needs experts of {high + span:g} epochs but they have {epochs}"
        raise ValueError(f"{shown} with a span of {span} epochs {needs}; {remedy}")


def draw(window: tuple[float, float], span: int, experts: int, epochs: int, rng: torch.Generator) -> tuple[int, int]:
    """Which expert (0 to E-1) and start epoch: uniform over both, the window closed at both ends."""
    check_window(window, span, epochs)
    low, high = math.ceil(window[0]), math.floor(window[1])
    expert = int(torch.randint(experts, (), generator=rng))
    return expert, int(torch.randint(low, high + 1, (), generator=rng))


@dataclass(frozen=True, eq=False)
class InMemory:
    """A `TrajectorySource` over tensors.

    Args:
        trajectories: One tensor (T, P) an expert, row t the parameters after epoch t.

    Raises:
        ValueError: There are none, or they differ in shape.
    """

    trajectories: Sequence[Tensor]

    def __post_init__(self) -> None:
        shapes = sorted({tuple(trajectory.shape) for trajectory in self.trajectories})
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] < 1:
            raise ValueError(f"trajectories have shapes {shapes}; give at least one, all of one (T, P)")

    @property
    def epochs(self) -> int:
        """The epoch of every expert's last snapshot, K."""
        return self.trajectories[0].shape[0] - 1

    @property
    def parameters(self) -> int:
        """The number of parameters, P."""
        return self.trajectories[0].shape[1]

    def segment(
        self, window: tuple[float, float], span: int, rng: torch.Generator, *, between: bool = False
    ) -> Segment:
        """Draw a segment; see `TrajectorySource`.

        Raises:
            ValueError: The window reaches beyond the experts.
        """
        expert, t = draw(window, span, len(self.trajectories), self.epochs, rng)
        path = self.trajectories[expert].detach()
        inside = path[t + 1 : t + span].clone() if between else None
        return Segment(path[t].clone(), path[t + span].clone(), float(t), inside, expert)


@dataclass(frozen=True)
class BufferSpec:
    """What a buffer is of: two buffers with equal specs hold the same experts, however many.

    Attributes:
        dataset: Its name or path.
        fingerprint: Of the data set's stored bytes.
        preprocessing_hash: Of the preprocessing object.
        preprocessing: The preprocessing's JSON-able metadata, its ``kind`` among it.
        network: Its name.
        channels: Of an image.
        size: Of an image, in pixels.
        classes: How many.
        layout: Where each parameter lies in theta (P,).
        buffer_layout: Where each running statistic lies in the vector (Q,); empty without BatchNorm.
        recipe: The experts' hyper-parameters, JSON-able.
        seed: Of the run.
        schema_version: Of the files.
    """

    dataset: str
    fingerprint: str
    preprocessing_hash: str
    preprocessing: dict[str, Any]
    network: str
    channels: int
    size: int
    classes: int
    layout: Layout
    buffer_layout: Layout
    recipe: dict[str, Any]
    seed: int
    schema_version: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BufferSpec":
        """From `to_json`'s."""
        layouts = {
            key: tuple(Slot(name, tuple(shape), offset) for name, shape, offset in values[key])
            for key in ("layout", "buffer_layout")
        }
        return cls(**{**values, **layouts})

    def difference(self, other: "BufferSpec") -> str | None:
        """The first field that differs, with both values, or None."""
        mine, theirs = _leaves(self.to_json()), _leaves(other.to_json())
        for name in [*mine, *(name for name in theirs if name not in mine)]:
            if mine.get(name) != theirs.get(name):
                return f"{name} is {_SHORT.repr(mine.get(name))} instead of {_SHORT.repr(theirs.get(name))}"
        return None


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


@dataclass(frozen=True, eq=False)
class ExpertTrajectory:
    """All that is kept of one trained expert.

    Attributes:
        theta: Parameters after each epoch, (T, P), float32.
        buffers: BatchNorm's running statistics after each epoch, (T, Q), float32; None or Q = 0 without.
        epochs: The epoch of each snapshot, (T,): 0, 1, ..., T-1.
        accuracy: Validation accuracy of each snapshot, a fraction, (T,); NaN where not measured.
        train_loss: Mean training loss of the epoch that ended there, (T,); NaN where not measured.
    """

    theta: Tensor
    buffers: Tensor | None
    epochs: Sequence[int]
    accuracy: Sequence[float]
    train_loss: Sequence[float]

    def columns(self, layout: Layout) -> dict[str, np.ndarray[Any, Any]]:
        """The trajectory as arrays of T rows, by column name.

        Args:
            layout: Of theta; gives ``step_norm`` its columns.
        """
        theta = self.theta.detach().cpu().contiguous().numpy()
        columns = {
            "theta": theta,
            "epoch": np.asarray(self.epochs, np.int32),
            "accuracy": np.asarray(self.accuracy, np.float64),
            "train_loss": np.asarray(self.train_loss, np.float64),
            "step_norm": step_norms(theta, layout),
        }
        if self.buffers is not None and self.buffers.shape[-1]:
            columns["buffers"] = self.buffers.detach().cpu().contiguous().numpy()
        return columns


def step_norms(theta: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """How far each parameter tensor went since the snapshot before: (T, L) of (T, P), float64.

    ``norms[t, l] = ||theta_t[l] - theta_{t-1}[l]||_2``; row 0 is zero. NumPy sums on one thread, so
    the result does not depend on how many a worker was given.
    """
    offsets = [slot.offset for slot in layout]
    norms = np.zeros((len(theta), len(layout)))
    for t in range(1, len(theta)):
        step = theta[t].astype(np.float64) - theta[t - 1]
        norms[t] = np.sqrt(np.add.reduceat(step * step, offsets))
    return norms


def misfit(columns: Columns, spec: BufferSpec) -> str | None:
    """How columns differ from those of a trajectory of this spec, or None."""
    rows = len(columns["theta"]) if "theta" in columns else 0
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "theta": ("float32", (rows, sum(slot.numel for slot in spec.layout))),
        "epoch": ("int32", (rows,)),
        "accuracy": ("float64", (rows,)),
        "train_loss": ("float64", (rows,)),
        "step_norm": ("float64", (rows, len(spec.layout))),
    }
    if spec.buffer_layout:
        wanted["buffers"] = ("float32", (rows, sum(slot.numel for slot in spec.buffer_layout)))
    found = {name: (str(array.dtype), array.shape) for name, array in columns.items()}
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            return f"column {name} is {found.get(name)} instead of {wanted.get(name)}"
    epochs = columns["epoch"].tolist()
    return None if epochs and epochs == list(range(rows)) else f"epochs are {epochs} instead of 0, 1, 2, ..."


def not_finite(columns: Columns) -> str | None:
    """Where a trajectory's columns first hold an infinity or a NaN that should be a number, or None."""
    for name in ("theta", "buffers", "step_norm"):
        for t, row in enumerate(columns.get(name, ())):
            if not np.isfinite(row).all():
                return f"{name} is not finite at epoch {t}"
    return None
