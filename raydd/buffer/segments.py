"""Experts' trajectories in parameter space, and the segments of them that methods match.

Shapes: `P` parameters, `Q` running statistics, `E` experts, `T` snapshots an expert (epochs 0 to `K = T - 1`), `M` a
segment's span in epochs, `L` parameter tensors.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from raydd.buffer.expert_file import step_norms
from raydd.numerics.flat import Layout, Slot


class Segment(NamedTuple):
    """A part of one expert's trajectory; its tensors are the caller's own.

    Attributes:
        start: theta_t, (P,).
        target: theta_{t+M}, (P,).
        epoch: t; whole for stored experts.
        between: theta_{t+1} to theta_{t+M-1}, (M-1, P), or None.
        expert: The expert's number.
    """

    start: Tensor
    target: Tensor
    epoch: float
    between: Tensor | None
    expert: int

    def to(self, like: Tensor) -> "Segment":
        """Return the segment on the device and in the dtype of ``like``."""
        between = None if self.between is None else self.between.to(like)
        return self._replace(start=self.start.to(like), target=self.target.to(like), between=between)


class TrajectorySource(Protocol):
    """A source of segments: a buffer on disk, tensors in memory, an object store."""

    @property
    def epochs(self) -> int:
        """The epoch of every expert's last snapshot, K."""

    @property
    def parameters(self) -> int:
        """The number of parameters, P."""

    @property
    def layout(self) -> Layout:
        """Where each parameter tensor lies in theta (P,)."""

    @property
    def experts(self) -> Sequence[int]:
        """The experts' numbers, ascending."""

    @property
    def kept(self) -> tuple[int, ...] | None:
        """The epochs whose snapshots are stored, 0 and K among them; None if all are."""

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """Return an expert's parameters (P,) after an epoch; the caller's own."""

    def running_stats(self, expert: int, epoch: float) -> Tensor:
        """Return an expert's BatchNorm running statistics (Q,) after an epoch; empty if there are none."""

    def norms(self, expert: int) -> Tensor:
        """Return how far each parameter tensor went in each epoch, (K+1, L), float64; row 0 is zero."""

    def segment(
        self, window: tuple[float, float], span: int, rng: torch.Generator, *, between: bool = False
    ) -> Segment:
        """Draw a segment.

        Args:
            window: The closed range (low, high) of start epochs.
            span: M, in epochs.
            rng: A CPU generator.
            between: Whether to return the snapshots strictly inside the segment.
        """


def check_window(window: tuple[float, float], span: int, epochs: int, *, whole: bool = True) -> None:
    """Refuse a window of start epochs that reaches beyond the experts.

    Args:
        window: The closed range (low, high) of start epochs.
        span: M, in epochs.
        epochs: The epoch of the experts' last snapshot.
        whole: Whether start epochs are whole, so that a window between two of them is empty.

    >>> check_window((0, 18), 2, 20)
    >>> check_window((0, 19), 2, 20)
    Traceback (most recent call last):
    ValueError: window (0, 19) with a span of 2 epochs needs experts of 21 epochs but they have 20; \
end the window at 18 or earlier, or train longer experts
    """
    low, high = window
    name = f"window ({low:g}, {high:g})"
    if span < 1:
        raise ValueError(f"a span of {span} epochs is too short; use at least 1")
    if span > epochs:
        remedy = f"use a span of at most {epochs}, or train longer experts"
        raise ValueError(f"a span of {span} epochs is longer than the experts' {epochs}; {remedy}")
    if not 0 <= low <= high or (whole and math.ceil(low) > math.floor(high)):
        raise ValueError(f"{name} holds no epoch; use 0 <= low <= high, for example (0, {epochs - span})")
    if high + span > epochs:
        remedy = f"end the window at {epochs - span} or earlier, or train longer experts"
        needs = f"needs experts of {high + span:g} epochs but they have {epochs}"
        raise ValueError(f"{name} with a span of {span} epochs {needs}; {remedy}")


def draw(window: tuple[float, float], span: int, experts: int, epochs: int, rng: torch.Generator) -> tuple[int, int]:
    """Draw an expert (0 to E-1) and a start epoch, uniformly; the window is closed at both ends."""
    check_window(window, span, epochs)
    low, high = math.ceil(window[0]), math.floor(window[1])
    expert = int(torch.randint(experts, (), generator=rng))
    return expert, int(torch.randint(low, high + 1, (), generator=rng))


class InMemory:
    """A `TrajectorySource` over tensors.

    Args:
        trajectories: One tensor (T, P) an expert, row t the parameters after epoch t.
        layout: Where each parameter tensor lies in theta (P,); empty takes theta for one tensor.
        statistics: One tensor (T, Q) an expert, row t BatchNorm's running statistics after epoch t; empty without.
    """

    kept = None  # all snapshots are there

    def __init__(self, trajectories: Sequence[Tensor], layout: Layout = (), statistics: Sequence[Tensor] = ()) -> None:
        shapes = sorted({tuple(trajectory.shape) for trajectory in trajectories})
        if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] < 1:
            raise ValueError(f"trajectories have shapes {shapes}; give at least one, all of one (T, P)")
        self.trajectories, self.statistics = trajectories, statistics
        self.epochs, self.parameters = shapes[0][0] - 1, shapes[0][1]
        self.experts: Sequence[int] = range(len(trajectories))
        self.layout: Layout = layout or (Slot("theta", (self.parameters,), 0),)
        if (total := sum(slot.numel for slot in self.layout)) != self.parameters:
            raise ValueError(f"the layout has {total} parameters but the trajectories {self.parameters}; give theirs")

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """Return an expert's parameters (P,) after an epoch."""
        return self.trajectories[expert][epoch].detach().clone()

    def running_stats(self, expert: int, epoch: float) -> Tensor:
        """Return an expert's BatchNorm running statistics (Q,) after an epoch; empty if there are none."""
        return self.statistics[expert][int(epoch)].detach().clone() if self.statistics else torch.zeros(0)

    def norms(self, expert: int) -> Tensor:
        """Return how far each parameter tensor went in each epoch, (K+1, L); see `step_norms`."""
        return torch.from_numpy(step_norms(self.trajectories[expert].detach().cpu().numpy(), self.layout))

    def segment(
        self, window: tuple[float, float], span: int, rng: torch.Generator, *, between: bool = False
    ) -> Segment:
        """Draw a segment; see `TrajectorySource`."""
        expert, t = draw(window, span, len(self.trajectories), self.epochs, rng)
        path = self.trajectories[expert].detach()
        inside = path[t + 1 : t + span].clone() if between else None
        return Segment(path[t].clone(), path[t + span].clone(), float(t), inside, expert)
