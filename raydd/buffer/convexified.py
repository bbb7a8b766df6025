"""Convexified trajectories: straight lines between a few snapshots of an expert, and buffers of them.

Shapes: `P` parameters, `L` parameter tensors, `M` a segment's span in epochs, `K` the last epoch.
"""

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from raydd.buffer.arrow_buffer import ArrowBuffer, complete_experts, create_buffer, refresh_manifest
from raydd.buffer.expert_file import expert_path, write_expert
from raydd.buffer.segments import Segment, TrajectorySource, check_window, draw
from raydd.buffer.spec import ascends
from raydd.buffer.verification import check_whole
from raydd.io.files import AnyPath, write_atomic


def knots(waypoints: Sequence[int], epochs: int, name: str = "waypoints") -> tuple[int, ...]:
    """Return the epochs that a convexified trajectory passes through: (0, *waypoints, K).

    >>> knots((6, 25), 50)
    (0, 6, 25, 50)
    """
    passed = (0, *waypoints, epochs)
    if not ascends(passed):
        between = f"epochs strictly between 0 and {epochs}, the experts' last, in rising order"
        raise ValueError(f"{name} {[*waypoints]} do not fit; give {between}")
    return passed


class Convexified:
    """A `TrajectorySource` of convexified trajectories.

    Between two neighbouring epochs a < b of (0, *waypoints, K), a parameter tensor l is at

        (1 - beta_l(c)) theta_a + beta_l(c) theta_b,  beta_l(t) = sum_{s=a+1..t} n_l(s) / sum_{s=a+1..b} n_l(s),

    where n_l(s) is how far l went in epoch s; between whole epochs beta is interpolated linearly. A
    tensor that did not move between a and b is at beta_l(c) = (c - a) / (b - a).

    Args:
        source: The experts; a convexified buffer brings its own epochs.
        waypoints: Epochs beside the first and the last that the trajectory passes through.
        continuous: Draw start epochs from the reals; otherwise from the whole numbers.

    Attributes:
        kept: The epochs at which the trajectory is the expert's own: (0, *waypoints, K).

    Reference:
        Zhong et al., arXiv 2406.19827, Eq. 8-10; the waypoints are of its section 5.1.

    Differs:
        The paper only says that its waypoints are inserted; here each leg between two of them is a line of its own,
        with its own beta. A segment's end is never clamped to K, because a window that reaches beyond is refused.
    """

    def __init__(self, source: TrajectorySource, waypoints: Sequence[int] = (), continuous: bool = True) -> None:
        requested, stored = tuple(waypoints), source.kept
        if stored is not None and requested not in {(), stored[1:-1]}:
            remedy = "leave the waypoints out, or convexify the full buffer with them"
            raise ValueError(f"waypoints {requested} are not {stored[1:-1]}, those of the convexified buffer; {remedy}")
        self.source, self.continuous = source, continuous
        self.epochs, self.parameters, self.layout = source.epochs, source.parameters, source.layout
        self.experts = source.experts
        self.kept = stored or knots(requested, source.epochs)
        self.waypoints = self.kept[1:-1]
        self._betas: dict[int, tuple[Tensor, ...]] = {}

    def snapshot(self, expert: int, epoch: int) -> Tensor:
        """Return the trajectory's point (P,) at a whole epoch."""
        return self.point(expert, epoch)

    def running_stats(self, expert: int, epoch: float) -> Tensor:
        """Return an expert's BatchNorm running statistics (Q,) at an epoch of `kept`; empty if there are none."""
        if epoch in self.kept:
            return self.source.running_stats(expert, epoch)
        if not len(none := self.source.running_stats(expert, 0)):
            return none
        epochs = ", ".join(map(str, self.kept))
        raise ValueError(
            f"a convexified trajectory has running statistics for batch norm at the epochs {epochs} alone, not at "
            f"{epoch:g}; use a network with instance or group norm, such as ConvNet or ResNet18"
        )

    def norms(self, expert: int) -> Tensor:
        """Return how far each parameter tensor went in each epoch, (K+1, L): the source's."""
        return self.source.norms(expert)

    def point(self, expert: int, c: float) -> Tensor:
        """Return the trajectory's point (P,) at epoch c, whole or not, in the dtype of the source.

        At the epochs of `kept` it is the source's snapshot, bit by bit.
        """
        if not 0 <= c <= self.epochs:
            raise ValueError(f"epoch {c} is not in [0, {self.epochs}], which the experts cover")
        if c in self.kept:
            return self.source.snapshot(expert, int(c))
        leg = bisect_right(self.kept, c) - 1
        start, end = (self.source.snapshot(expert, epoch) for epoch in self.kept[leg : leg + 2])
        sizes = torch.tensor([slot.numel for slot in self.layout])
        beta = self._beta(expert, leg, c).repeat_interleave(sizes).to(start.device)
        return ((1 - beta) * start.double() + beta * end.double()).to(start.dtype)

    def _beta(self, expert: int, leg: int, c: float) -> Tensor:
        """Eq. 9 and 10 within one leg: (L,), float64."""
        if expert not in self._betas:
            norms = self.source.norms(expert)
            self._betas[expert] = tuple(betas(norms[a + 1 : b + 1]) for a, b in pairwise(self.kept))
        beta, floor = self._betas[expert][leg], math.floor(c)
        eta, t = c - floor, floor - self.kept[leg]
        return (1 - eta) * beta[t] + eta * beta[t + 1] if eta else beta[t]

    def segment(
        self, window: tuple[float, float], span: int, rng: torch.Generator, *, between: bool = False
    ) -> Segment:
        """Draw a segment; see `TrajectorySource`. Its epoch is c, and ``between`` c+1 to c+M-1."""
        expert, c = self._draw(window, span, rng)
        inside = [self.point(expert, c + k) for k in range(1, span)] if between else []
        start, target = self.point(expert, c), self.point(expert, c + span)
        return Segment(start, target, c, torch.stack([start, *inside])[1:] if between else None, expert)

    def _draw(self, window: tuple[float, float], span: int, rng: torch.Generator) -> tuple[int, float]:
        """Draw uniformly over the experts and over the reals, or the whole numbers, of the closed window."""
        if not self.continuous:
            position, t = draw(window, span, len(self.experts), self.epochs, rng)
            return self.experts[position], float(t)
        check_window(window, span, self.epochs, whole=False)
        low, high = window
        expert = self.experts[int(torch.randint(len(self.experts), (), generator=rng))]
        share = float(torch.rand((), dtype=torch.float64, generator=rng))
        return expert, min(low + share * (high - low), high)


def betas(norms: Tensor) -> Tensor:
    """Return the position on a leg of G epochs after each of them, as a share of its length.

    beta(t) = sum_{s<=t} norms_s / sum_{s<=G} norms_s for each parameter tensor; t / G for one that did not move.

    Args:
        norms: How far each parameter tensor went in each epoch of the leg, (G, L).

    Returns:
        (G+1, L) float64, from 0 to 1.

    Reference:
        Zhong et al., arXiv 2406.19827, Eq. 9.

    >>> betas(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).tolist()
    [[0.0, 0.0], [0.25, 0.5], [1.0, 1.0]]
    """
    zero = norms.new_zeros((1, norms.shape[1]), dtype=torch.float64)
    gone = torch.cat([zero, norms.double().cumsum(dim=0)])
    even = torch.linspace(0, 1, len(gone), dtype=torch.float64)[:, None].to(gone.device)
    return torch.where(gone[-1] > 0, gone / gone[-1].where(gone[-1] > 0, 1), even)


class Convexification(NamedTuple):
    """The result of `convexify`: the stored epochs, and the bytes of the expert files before and after."""

    experts: int
    kept: tuple[int, ...]
    before: int
    after: int


def convexify(full: AnyPath, folder: AnyPath, waypoints: Sequence[int] = ()) -> Convexification:
    """Write the convexified form of a buffer; a second call continues where the first was stopped.

    The files are those that training the same experts with ``experts.kept`` writes.

    Args:
        full: A buffer of all snapshots.
        folder: The new buffer's.
        waypoints: Epochs beside the first and the last whose snapshots are stored, ascending.
    """
    if Path(full).resolve() == Path(folder).resolve():
        raise ValueError(f"{folder} is the buffer to convexify; write to another folder")
    source = ArrowBuffer(full)
    if source.kept is not None:
        epochs = ", ".join(map(str, source.kept))
        raise ValueError(f"{full} is convexified already, it keeps epochs {epochs}; give a full buffer")
    kept = knots(waypoints, source.epochs)
    spec = dataclasses.replace(source.spec, kept=kept, recipe=source.spec.recipe | {"kept": [*waypoints]})
    check_whole(full)
    create_buffer(folder, spec)
    preprocessing = Path(full) / "preprocessing.arrow"
    if preprocessing.exists():
        write_atomic(Path(folder) / preprocessing.name, preprocessing.read_bytes())
    done = complete_experts(folder, spec)
    for expert in source.experts:
        if expert not in done:
            write_expert(folder, spec, expert, source.part(expert, kept))
    refresh_manifest(folder)
    before, after = (sum(expert_path(f, e).stat().st_size for e in source.experts) for f in (full, folder))
    return Convexification(len(source.experts), kept, before, after)
