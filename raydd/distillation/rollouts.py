"""Several matches an outer step, whose gradients are averaged: each its own segment, batches and views."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch

from raydd.data.synset import SyntheticSet
from raydd.distillation.objective import Objective
from raydd.distillation.parts import Division, Leaves, Matches, Parts, Rollout
from raydd.numerics.rng import generator


def step_generator(seed: int, step: int, attempt: int, index: int = 0) -> torch.Generator:
    """Return the generator of rollout or part ``index`` of an outer step from 0, after ``attempt`` rollbacks."""
    return generator(seed, "outer", step, attempt, *([index] if index else []))


@dataclass(frozen=True)
class Matcher:
    """Makes any one rollout of an objective without state, to the same bits in every process of as many threads."""

    objective: Objective[Any]
    synset: SyntheticSet
    seed: int

    def __call__(self, index: int, leaves: Leaves, step: int, attempt: int) -> Rollout:
        """Return rollout ``index`` of an outer step; rollout 0 draws what a run of one match a step draws."""
        own = {name: leaf.detach().clone().to(self.synset.images.device) for name, leaf in leaves.items()}
        for leaf in own.values():
            leaf.requires_grad_()
        rng = step_generator(self.seed, step, attempt, index)
        loss, _ = self.objective.loss(self.synset.with_leaves(own), None, step, rng)
        return Rollout(float(loss.detach()), torch.autograd.grad(loss, list(own.values())))


def averaged(parts: Parts) -> Matches:
    """Return what averages the rollouts of an outer step."""

    def matches(ahead: Iterable[Leaves], state: Any, step: int, attempt: int) -> tuple[list[Rollout], Any]:
        leaves = next(iter(ahead))
        rollouts = parts(parts.share(leaves), step, attempt)
        on_leaves = [
            Rollout(loss, tuple(each.to(leaf.device) for each, leaf in zip(gradients, leaves.values(), strict=True)))
            for loss, gradients in rollouts
        ]
        return [mean(on_leaves)], state

    return matches


def rollout_division(matcher: Matcher, count: int) -> Division:
    """Return the division of an outer step into ``count`` rollouts."""
    return Division(count, matcher, averaged)


def mean(rollouts: Sequence[Rollout]) -> Rollout:
    """Return the mean of the losses and gradients, summed in the order given, so that the bits are reproducible."""
    sums = reduce(_sum, rollouts)
    return Rollout(sums.loss / len(rollouts), tuple(gradient / len(rollouts) for gradient in sums.gradients))


def _sum(one: Rollout, other: Rollout) -> Rollout:
    return Rollout(one.loss + other.loss, tuple(map(torch.add, one.gradients, other.gradients)))
