"""How far the student's path ends from the expert's.

A distance takes the path (theta_0, ..., theta_S), each (P,), and a segment, and gives a scalar.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from raydd.numerics.unroll import Path


class Ends(Protocol):
    """The part of a segment that distances read: where the expert starts and where it arrives."""

    @property
    def start(self) -> Tensor:
        """theta*_t (P,)."""

    @property
    def target(self) -> Tensor:
        """theta*_{t+M} (P,)."""


Distance = Callable[[Path, Ends], Tensor]


def normalized_mse(path: Path, segment: Ends) -> Tensor:
    r"""|theta_S - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2 over all parameters.

    1 means no closer than the start, 0 that the student arrived.

    Raises:
        ValueError: If the expert did not move at all, so that no distance can be measured.

    Reference:
        Cazenavette et al., arXiv 2203.11932, Eq. 2.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> ends = SimpleNamespace(start=torch.zeros(2), target=torch.tensor([3.0, 4.0]))
    >>> normalized_mse((ends.start, torch.tensor([3.0, 0.0])), ends).item()
    0.6399999856948853
    """
    moved = (segment.start - segment.target).square().sum()
    if not bool(moved > 0):
        raise ValueError("the expert stands still between start and target; retrain it with a larger lr")
    return (path[-1] - segment.target).square().sum() / moved
