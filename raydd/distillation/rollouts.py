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
    """One match of an outer step.

    Attributes:
        loss: The objective there.
        gradients: Of the leaves, in their order and shapes.
    """

    loss: float
    gradients: tuple[Tensor, ...]


def draws(seed: int, step: int, attempt: int, index: int = 0) -> torch.Generator:
    """What one match of an outer step draws from.

    Args:
        seed: The run's.
        step: The outer step, from 0.
        attempt: How often the run was rolled back before.
        index: Which of the step's rollouts it is, or which of the objective's parts.
    """
    return generator(seed, "outer", step, attempt, *([index] if index else []))


Rolls = Callable[[Mapping[str, Tensor], int, int], Sequence[Rollout]]
"""(leaves by name, outer step, attempt) -> the rollouts of that step, in the order of their numbers."""


class Matcher(NamedTuple):
    """Makes any one rollout of a run; the same bits in every process that computes with as many threads.

    Attributes:
        objective: Of one part, without a state.
        synset: What is not learned is taken from it.
        seed: The run's.
    """

    objective: Objective[Any]
    synset: SyntheticSet
    seed: int

    def __call__(self, leaves: Mapping[str, Tensor], step: int, attempt: int, index: int) -> Rollout:
        """Rollout ``index`` of an outer step. Its draws come from the seed, the step, the attempt and the index alone.

        Rollout 0 draws what a run of one match a step draws.
        """
        own = {name: leaf.detach().clone().to(self.synset.images.device) for name, leaf in leaves.items()}
        for leaf in own.values():
            leaf.requires_grad_()
        rng = draws(self.seed, step, attempt, index)
        loss, _ = self.objective.loss(self.synset.with_leaves(own), None, step, rng)
        return Rollout(float(loss.detach()), torch.autograd.grad(loss, list(own.values())))


def in_turn(matcher: Matcher, count: int) -> Rolls:
    """The rollouts of an outer step, so many, one after another in this process."""

    def rolls(leaves: Mapping[str, Tensor], step: int, attempt: int) -> list[Rollout]:
        return [matcher(leaves, step, attempt, index) for index in range(count)]

    return rolls


def mean(rollouts: Sequence[Rollout]) -> Rollout:
    """The mean of the losses and gradients, summed in the order given: so the same bits whoever was first."""
    sums = reduce(_sum, rollouts)
    return Rollout(sums.loss / len(rollouts), tuple(gradient / len(rollouts) for gradient in sums.gradients))


def _sum(one: Rollout, other: Rollout) -> Rollout:
    return Rollout(one.loss + other.loss, tuple(map(torch.add, one.gradients, other.gradients)))
