"""Distances between the student's path and the expert's.

A closeness compares one point of the student's path with one of the expert's. A distance takes the path
(theta_0, ..., theta_N), each (P,), and a segment, and decides which points to compare, with which weights.

Shapes: `P` parameters, `N` student steps, `M` expert span in epochs.

DPD: Cao et al., "Optimizing Trajectory Matching Distillation via Parameter Difference-Driven Pruning".
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Literal, Protocol

import torch
from torch import Tensor

from raydd.numerics.unroll import Path

Metric = Literal["abs", "squared", "relative"]
Weights = Literal["equal", "varied"]


class Ends(Protocol):
    """The parts of a segment that distances read: where the expert starts, passes and arrives."""

    @property
    def start(self) -> Tensor:
        """theta*_t (P,)."""

    @property
    def target(self) -> Tensor:
        """theta*_{t+M} (P,)."""

    @property
    def between(self) -> Tensor | None:
        """theta*_{t+1} to theta*_{t+M-1} (M-1, P), or None when they were not asked for."""


Closeness = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student (P,), expert's start (P,), expert's target (P,)) -> scalar."""

Distance = Callable[[Path, Ends], Tensor]


def normalized(student: Tensor, start: Tensor, target: Tensor) -> Tensor:
    r"""Return |theta_S - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2; 0 is the target, 1 no closer than the start.

    The student theta_S, the expert's start theta*_t and its target theta*_{t+M} are (P,).

    It is infinite, or not a number, where the expert did not move.

    Reference: Cazenavette et al., arXiv 2203.11932, Eq. 2.

    >>> import torch
    >>> normalized(torch.tensor([3.0, 2.0]), torch.zeros(2), torch.tensor([3.0, 4.0])).item()
    0.1599999964237213
    """
    return (student - target).square().sum() / (start - target).square().sum()


def difference(student: Tensor, target: Tensor, metric: Metric) -> Tensor:
    """Return how much each parameter s of the student (P,) differs from the expert's t (P,), (P,).

    ``abs`` is |s - t|, ``squared`` (s - t)^2, and ``relative`` |s - t| / |t|, where 0 / 0 is 0 and any other number
    over 0 is infinite.

    Reference: Cao et al. (DPD), Eq. 5 and Figure 4(a).
    Differs: Eq. 5 prints the norm of the whole difference; to order parameters it is read elementwise.

    >>> import torch
    >>> difference(torch.tensor([1.0, 0.0, 3.0]), torch.tensor([4.0, 0.0, 0.0]), "relative")
    tensor([0.7500, 0.0000,    inf])
    """
    if metric not in METRICS:
        raise ValueError(f"pruning.metric {metric!r} is unknown; use {', '.join(METRICS)}")
    return METRICS[metric](student - target, target)


def _relative(gap: Tensor, target: Tensor) -> Tensor:
    return torch.where(gap == 0, torch.zeros_like(gap), gap.abs() / target.abs())


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "abs": lambda gap, target: gap.abs(),
    "squared": lambda gap, target: gap.square(),
    "relative": _relative,
}
"""By name: (s - t (P,), t (P,)) -> (P,)."""


def matched_parameters(student: Tensor, target: Tensor, rate: float, metric: Metric) -> Tensor:
    """Return the ascending indices (P - floor(P rate),) of all parameters but the floor(P rate) that differ most.

    Student and target are (P,), the metrics those of `difference`, and a rate of 0.3 of 10 is 3. Of equal differences
    the lower index stays. A parameter that is not a number stays, so that the loss shows it.

    Raises:
        ValueError: The rate is not in [0, 1), or the metric is unknown.

    Reference: Cao et al. (DPD), Eq. 3-9 and Algorithm 1.

    >>> import torch
    >>> matched_parameters(torch.tensor([0.0, 5.0, 1.0, 2.0]), torch.zeros(4), 0.5, "abs")
    tensor([0, 2])
    """
    if not 0 <= rate < 1:
        raise ValueError(f"pruning.rate {rate} must be at least 0 and less than 1")
    gaps = difference(student.detach(), target.detach(), metric)
    order = torch.where(gaps.isnan(), -1, gaps).argsort(stable=True)
    pruned_count = int(len(order) * Fraction(str(rate)))
    return order[: len(order) - pruned_count].sort().values


def pruned(rate: float, metric: Metric = "abs", closeness: Closeness = normalized) -> Closeness:
    """Return ``closeness`` of the `matched_parameters` alone, which are chosen again for every pair of points.

    A rate of 0 returns ``closeness`` itself. ``abs`` and ``squared`` order parameters alike, so that they leave out the
    same ones, up to rounding, though the paper plots them apart.

    Reference: Cao et al. (DPD), section 3.2.

    >>> import torch
    >>> half = pruned(0.5)
    >>> half(torch.tensor([3.0, 9.0]), torch.zeros(2), torch.tensor([4.0, 1.0])).item()  # (3 - 4)^2 / 4^2
    0.0625
    """
    if rate == 0:
        return closeness

    def match(student: Tensor, start: Tensor, target: Tensor) -> Tensor:
        rows = matched_parameters(student, target, rate, metric)
        return closeness(student[rows], start[rows], target[rows])

    return match


def at_end(closeness: Closeness) -> Distance:
    """Return the closeness of the points where the student and the expert arrive."""
    return lambda path, segment: closeness(path[-1], segment.start, segment.target)


def normalized_mse(path: Path, segment: Ends) -> Tensor:
    """Return `normalized` at the end of the path, MTT's distance."""
    return normalized(path[-1], segment.start, segment.target)


def along(closeness: Closeness, weights: Weights) -> Distance:
    r"""Return the closeness at the end and at the epochs on the way: sum_k beta_k closeness_k, k = 1..M.

    For k < M it compares theta_n, n = floor(k N / M), with theta*_{t+k}; beta_M is 1. Weights are ``equal``,
    beta_k = 1, or ``varied``, beta_k = k / M.

    Raises:
        ValueError: Unknown weights; from the distance: a segment without its inner snapshots.

    Reference: arXiv 2310.10541 (AST), Eq. 22 and Algorithm 2.
    Differs: The paper says only that varied weights follow the matching points; k / M is ours. Its Eq. 22 names the
        expert's point by the student's step; the k-th epoch is meant, as in Algorithm 2.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> inside = SimpleNamespace(start=torch.zeros(1), between=torch.ones(1, 1), target=torch.full((1,), 2.0))
    >>> along(normalized, "varied")((torch.zeros(1), torch.full((1,), 0.5), torch.ones(1)), inside).item()
    0.375
    """
    if weights not in WEIGHTS:
        raise ValueError(f"intermediate {weights!r} is unknown; use {', '.join(WEIGHTS)}")

    def distance(path: Path, segment: Ends) -> Tensor:
        if segment.between is None:
            raise ValueError("the segment came without its inner epochs; draw it with between=True")
        span, steps = len(segment.between) + 1, len(path) - 1
        total = closeness(path[-1], segment.start, segment.target)
        for k, passed in enumerate(segment.between, start=1):
            total = total + WEIGHTS[weights](k / span) * closeness(path[k * steps // span], segment.start, passed)
        return total

    return distance


WEIGHTS: dict[str, Callable[[float], float]] = {"equal": lambda part: 1.0, "varied": lambda part: part}
"""By name: k / M -> beta_k."""
