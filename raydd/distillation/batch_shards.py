"""Trajectory matching in shards: the batch of every student step is cut into pieces, which workers hold.

Each student step sends theta to the workers and sums their gradients; so does each step of the sweep back, with
Hessian-vector products. Workers draw batches and views from the seed of the outer step.

Shapes: `N` synthetic images, `P` parameters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.parts import Division, Leaves, Matches, Parts, Sequential
from raydd.distillation.rollouts import Matcher, averaged
from raydd.numerics.shards import Shard, summed
from raydd.numerics.unroll import Batch, Slopes

if TYPE_CHECKING:
    from raydd.distillation.trajectory_matching import Student, TrajectoryMatching


class BatchShard:
    """Computes a shard of any student step, to the same bits in every process; holds the last outer step's batches."""

    def __init__(self, objective: "TrajectoryMatching", synset: SyntheticSet, shards: int) -> None:
        self._objective, self._synset, self._shards = objective, synset, shards
        self._held: tuple[int, Student] | None = None

    def __call__(
        self,
        index: int,
        outer: tuple[int, Leaves, int, int],
        step: int,
        point: Sequence[Tensor],
        wanted: Sequence[bool] = (),
    ) -> Any:
        """Return the part of shard ``index`` in the gradient (P,) of a student step, or in its `Slopes`.

        Args:
            index: The shard's number.
            outer: A number of this sweep, the set's parts before the outer step, the step, and the seed of its draws.
            step: The student step.
            point: The student's parameters (P,), and lambda (P,) for slopes; without it the gradient is returned.
            wanted: Whether slopes by x and by y are wanted.
        """
        student = self._student(*outer)
        batch, shard = student.batches[step], Shard(student.inner, index, self._shards)
        theta, *adjoint = (vector.to(self._synset.images.device) for vector in point)
        if not adjoint:
            return shard.gradient(theta, batch)
        x, y = (tensor.detach().requires_grad_(need) for tensor, need in zip(batch[:2], wanted, strict=True))
        exact = self._objective.backprop == "adjoint"
        return shard.slopes(theta, Batch(x, y, batch.view), adjoint[0], exact)

    def _student(self, number: int, leaves: Leaves, step: int, seed: int) -> "Student":
        if self._held is None or self._held[0] != number:
            own = {name: leaf.to(self._synset.images.device) for name, leaf in leaves.items()}
            rng = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                segment = self._objective.draw(step, rng)
                self._held = number, self._objective.student(self._synset.with_leaves(own), segment, rng)
        return self._held[1]


class ShardedSteps:
    """Student steps of one outer step, whose shards others compute, summed in the order of their numbers."""

    def __init__(self, parts: Parts, numbers: Iterator[int], synset: SyntheticSet, step: int, seed: int) -> None:
        leaves = {name: part.detach() for name, part in synset.parts.items() if name != "lr"}
        self._parts, self._outer = parts, parts.share((next(numbers), leaves, step, seed))

    def gradient(self, step: int, theta: Tensor, batch: Batch) -> Tensor:
        """Return the gradient (P,) of the student's loss at theta (P,)."""
        gradients: list[Tensor] = self._parts(self._outer, step, self._parts.share((theta,)))
        return reduce(torch.add, gradients).to(theta)

    def slopes(self, step: int, theta: Tensor, batch: Batch, adjoint: Tensor, second_order: bool) -> Slopes:
        """Return the slopes of a student step."""
        wanted = (batch.x.requires_grad, batch.y.requires_grad)
        results = self._parts(self._outer, step, self._parts.share((theta, adjoint)), wanted)
        total = summed([Slopes(*result) for result in results])
        by_theta, x, y = (None if value is None else value.to(theta) for value in total[1:])
        return Slopes(total.value.to(theta), by_theta, x, y)


def batch_division(
    objective: "TrajectoryMatching", synset: SyntheticSet, seed: int, shards: int, rollouts: int
) -> Division:
    """Return the division of every student step into ``shards``; several rollouts come one after another."""

    def over(parts: Parts) -> Matches:
        sharded = replace(objective, steps=partial(ShardedSteps, parts, count()))
        return averaged(Sequential(Matcher(sharded, synset, seed), rollouts))

    return Division(shards, BatchShard(objective, synset, shards), over)
