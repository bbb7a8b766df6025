"""Several matches an outer step, whose gradients are averaged: each its own segment, batches and views."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.objective import Objective
from raydd.numerics.rng import generator


class Rollout(NamedTuple):
    """One match of an outer step."""

    loss: float
    gradients: tuple[Tensor, ...]


def step_generator(seed: int, step: int, attempt: int, index: int = 0) -> torch.Generator:
    """Return the generator of rollout or part ``index`` of an outer step from 0, after ``attempt`` rollbacks."""
    return generator(seed, "outer", step, attempt, *([index] if index else []))


Rollouts = Callable[[Mapping[str, Tensor], int, int], Sequence[Rollout]]
"""(leaves by name, outer step, attempt) -> the rollouts of that step, in the order of their numbers."""


class Matcher(NamedTuple):
    """Makes any one rollout of an objective without state, to the same bits in every process of as many threads."""

    objective: Objective[Any]
    synset: SyntheticSet
    seed: int

    def __call__(self, leaves: Mapping[str, Tensor], step: int, attempt: int, index: int) -> Rollout:
        """Return rollout ``index`` of an outer step; rollout 0 draws what a run of one match a step draws."""
        own = {name: leaf.detach().clone().to(self.synset.images.device) for name, leaf in leaves.items()}
        for leaf in own.values():
            leaf.requires_grad_()
        rng = step_generator(self.seed, step, attempt, index)
        loss, _ = self.objective.loss(self.synset.with_leaves(own), None, step, rng)
        return Rollout(float(loss.detach()), torch.autograd.grad(loss, list(own.values())))


def sequential(matcher: Matcher, count: int) -> Rollouts:
    """Return what makes ``count`` rollouts of an outer step one after another in this process."""

    def rollouts(leaves: Mapping[str, Tensor], step: int, attempt: int) -> list[Rollout]:
        return [matcher(leaves, step, attempt, index) for index in range(count)]

    return rollouts


def mean(rollouts: Sequence[Rollout]) -> Rollout:
    """Return the mean of the losses and gradients, summed in the order given, so that the bits are reproducible."""
    sums = reduce(_sum, rollouts)
    return Rollout(sums.loss / len(rollouts), tuple(gradient / len(rollouts) for gradient in sums.gradients))


def _sum(one: Rollout, other: Rollout) -> Rollout:
    return Rollout(one.loss + other.loss, tuple(map(torch.add, one.gradients, other.gradients)))
