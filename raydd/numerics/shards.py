"""Shards of a student step: a mean over a batch's images is a sum over pieces of the batch.

g = sum_k (b_k / B) g_k, where g_k is the gradient of the mean loss of shard k, which has b_k of the B images. The same
holds for the slopes of `raydd.numerics.unroll.Slopes`. It needs a loss in which no image depends on another one.

Shapes: `P` parameters, `B` batch, `C H W` image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from raydd.numerics.augment import rows_of
from raydd.numerics.unroll import Batch, Inner, Slopes, WholeBatches


def cut(count: int, shards: int) -> list[slice]:
    """Return ``shards`` ranges of ``count`` things, in order, whose sizes differ by one at most; they may be empty.

    >>> [(part.start, part.stop) for part in cut(10, 4)]
    [(0, 2), (2, 5), (5, 7), (7, 10)]
    """
    ends = [count * part // shards for part in range(shards + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


@dataclass(frozen=True)
class Shard:
    """One of ``shards`` pieces of every batch, by its number from 0; ``inner`` is the mean loss of a batch."""

    inner: Inner
    index: int
    shards: int

    def gradient(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return the shard's part (P,) of the gradient of a batch's loss at theta (P,)."""
        rows = self._rows(batch)
        return self._steps(batch, rows).gradient(0, theta, _piece(batch, rows)) if rows else torch.zeros_like(theta)

    def slopes(self, theta: Tensor, batch: Batch, adjoint: Tensor, second_order: bool) -> Slopes:
        """Return the shard's part of the slopes; those by x and y are of its own images alone."""
        rows = self._rows(batch)
        if not rows:
            return Slopes(torch.zeros_like(adjoint[0]))
        return self._steps(batch, rows).slopes(0, theta, _piece(batch, rows), adjoint, second_order)

    def _rows(self, batch: Batch) -> range:
        return range(len(batch.x))[cut(len(batch.x), self.shards)[self.index]]

    def _steps(self, batch: Batch, rows: range) -> WholeBatches:
        share = len(rows) / len(batch.x)
        return WholeBatches(lambda theta, x, y: share * self.inner(theta, x, y))


def _piece(batch: Batch, rows: range) -> Batch:
    piece = slice(rows.start, rows.stop)
    x, y = (tensor.detach()[piece].requires_grad_(tensor.requires_grad) for tensor in (batch.x, batch.y))
    return Batch(x, y, rows_of(batch.view, piece))


def summed(parts: Sequence[Slopes]) -> Slopes:
    """Return the slopes of a batch from those of its shards, in their order."""
    return Slopes(
        reduce(torch.add, (part.value for part in parts)),
        _each([part.theta for part in parts], lambda values: reduce(torch.add, values)),
        _each([part.x for part in parts], torch.cat),
        _each([part.y for part in parts], torch.cat),
    )


def _each(parts: Sequence[Tensor | None], join: Callable[[list[Tensor]], Tensor]) -> Tensor | None:
    there = [part for part in parts if part is not None]  # an empty shard has none, and nor has a linear loss
    return join(there) if there else None
