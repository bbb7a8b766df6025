"""Statistic matching in shards: each has a group of the classes, whose losses do not depend on other classes' images.

The network state of an outer step is drawn from its seed by every worker where no earlier step matters, and else once,
by the process that takes the steps.

Shapes: `N` synthetic images, `n` of them of one class, `C H W` image, `P` parameters.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.network_sources import NetworkPair
from raydd.distillation.parts import Division, Leaves, Matches, Parts, Rollout
from raydd.distillation.rollouts import step_generator
from raydd.numerics.rng import derived
from raydd.numerics.shards import cut

if TYPE_CHECKING:
    from raydd.distillation.statistic_matching import StatisticMatching


class ClassShard:
    """Computes the losses of a shard's classes and their gradients, to the same bits in every process."""

    def __init__(self, objective: "StatisticMatching", synset: SyntheticSet, seed: int, shards: int) -> None:
        self._objective, self._synset, self._seed = objective, synset, seed
        self._classes = cut(objective.classes, shards)

    def __call__(
        self, index: int, images: Tensor, pair: tuple[Any, ...] | None, step: int, attempt: int
    ) -> list[tuple[float, Tensor]]:
        """Return the loss of each class of shard ``index`` and its gradient to the images of the class (n, C, H, W).

        Args:
            index: The shard's number.
            images: The synthetic images (N, C, H, W), those of every class as they are before its part.
            pair: The networks of the outer step as `NetworkPair`; None draws them.
            step: The outer step from 0.
            attempt: The run's rollbacks.
        """
        leaf = images.detach().to(self._synset.images.device, copy=True).requires_grad_()
        synset = self._synset.with_leaves({"images": leaf})
        networks = NetworkPair(*pair).to(leaf) if pair else self.draw(synset, None, step, attempt)[0]
        results = []
        for label in range(self._objective.classes)[self._classes[index]]:
            rng = step_generator(self._seed, step, attempt, label)
            loss = self._objective.class_loss(synset, networks, label, rng)
            (gradient,) = torch.autograd.grad(loss, leaf)
            results.append((float(loss.detach()), gradient[self.rows(label)]))
        return results

    def draw(self, synset: SyntheticSet, state: Any, step: int, attempt: int) -> tuple[NetworkPair, Any]:
        """Return the networks of an outer step, as `StatisticMatching.loss` draws them, and the state after it."""
        rng = derived(step_generator(self._seed, step, attempt), "networks")
        pair, after = self._objective.networks.draw(synset, state, step, rng)
        return pair, after

    def rows(self, label: int) -> Tensor:
        """Return which images (n,) are of a class; labels are not learned."""
        return self._synset.rows(label)


def class_division(objective: "StatisticMatching", synset: SyntheticSet, seed: int, shards: int) -> Division:
    """Return the division of an outer step into ``shards`` groups of classes."""
    part = ClassShard(objective, synset, seed, shards)

    def over(parts: Parts) -> Matches:
        def matches(
            ahead: Iterable[Leaves], state: Any, step: int, attempt: int
        ) -> tuple[Iterator[Rollout], dict[str, Any]]:
            images, sent, after = _before_each_class(ahead, part, objective.classes), None, state["networks"]
            if not objective.networks.stateless:
                current = synset.with_leaves({"images": images[0]})
                pair, after = part.draw(current, after, step, attempt)
                sent = parts.share(tuple(pair))
            results = parts(parts.share(images[1]), sent, step, attempt)
            each = [result for shard in results for result in shard]
            return _whole(each, images[1], part), {"networks": after}

        return matches

    return Division(shards, part, over)


def _before_each_class(ahead: Iterable[Leaves], part: ClassShard, classes: int) -> tuple[Tensor, Tensor]:
    """Return the images before the step, and with those of every class as they are before its part, (N, C, H, W)."""
    points = iter(ahead)
    before = next(points)["images"].detach().clone()
    images = before.clone()
    for label, leaves in zip(range(1, classes), points, strict=False):
        rows = part.rows(label)
        images[rows] = leaves["images"].detach()[rows]
    return before, images


def _whole(results: list[tuple[float, Tensor]], like: Tensor, part: ClassShard) -> Iterator[Rollout]:
    """Yield the loss of each class and its gradient to all images (N, C, H, W)."""
    for label, (loss, own) in enumerate(results):
        gradient = torch.zeros_like(like)
        gradient[part.rows(label)] = own.to(like)
        yield Rollout(loss, (gradient,))
