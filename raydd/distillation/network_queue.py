"""A queue of networks, each trained on real images for as long as it is there.

Shapes: `P` parameters, `B` batch, `C H W` image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.network_sources import NetworkPair, gradient_and_logits
from raydd.numerics.flat import FlatModel

Batch = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""(how many, rng) -> real images (B, C, H, W) and their classes (B,)."""

INITIAL_SIZE = 3  # networks at the start
TRAINED_PER_STEP = 2  # networks trained after an outer step
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True)
class Queue:
    """Networks of many ages: one for statistics, trusted by its accuracy so far.

    The queue starts with three random networks. Every ``interval`` outer steps, from the first on, a fresh one joins,
    and the oldest leaves where there are more than ``size``. One of them, uniform, gives the statistics and judges; its
    trust is the share of its training images that it classified correctly, each before its own step. After an outer
    step two of them, uniform, take ``steps`` steps of SGD with momentum on real images.

    Attributes:
        model: The network.
        batch: Draws real images.
        size: The most networks; each has 2 P numbers in the state, and so in every checkpoint.
        interval: Outer steps from one fresh network to the next.
        steps: SGD steps a training.
        lr: Learning rate of that training; momentum 0.9, weight decay 5e-4.
        batch_size: Images a step of it.
        initial: Networks at the start. With 1, and ``size`` 1, one network at a time is used and trained, for
            ``interval`` outer steps.

    Reference:
        Zhao et al., arXiv 2307.09742 (IDM), sections 4.2 and 4.3, and its official code.

    Differs:
        The code weighs the cross-entropy by the accuracy in per cent, so that its weight 0.5 is alpha = 50 here; and
        it resets the accuracy whenever the set is evaluated, which is not part of the method.
    """

    stateless: ClassVar[bool] = False
    model: FlatModel
    batch: Batch
    size: int = 100
    interval: int = 30
    steps: int = 10
    lr: float = 0.01
    batch_size: int = 256
    initial: int = INITIAL_SIZE

    def init(self, rng: torch.Generator) -> dict[str, Any]:
        """Return the first networks."""
        networks = {str(name): self._fresh(rng) for name in range(self.initial)}
        return {"networks": networks, "born": self.initial}

    def draw(
        self, synset: SyntheticSet, state: dict[str, Any], step: int, rng: torch.Generator
    ) -> tuple[NetworkPair, dict[str, Any]]:
        """Return one of the networks, after the training that follows the outer step before."""
        networks, born = dict(state["networks"]), state["born"]
        if step:
            for name in _some(networks, TRAINED_PER_STEP, rng):
                networks[name] = self._trained(networks[name], synset.images, rng)
        if step % self.interval == 0:
            networks[str(born)], born = self._fresh(rng), born + 1
        for name in _ages(networks)[: -self.size]:
            del networks[name]
        chosen = networks[_some(networks, 1, rng)[0]]
        theta = chosen["theta"].to(synset.images)
        trust = chosen["right"] / chosen["seen"] if chosen["seen"] else 0.0
        return NetworkPair(theta, theta, trust), {"networks": networks, "born": born}

    def _fresh(self, rng: torch.Generator) -> dict[str, Any]:
        theta = self.model.init(rng)
        return {"theta": theta, "momentum": torch.zeros_like(theta), "seen": 0, "right": 0}

    @torch.no_grad()
    def _trained(self, network: dict[str, Any], like: Tensor, rng: torch.Generator) -> dict[str, Any]:
        theta, momentum = network["theta"].to(like), network["momentum"].to(like)
        seen, right = network["seen"], torch.zeros((), dtype=torch.int64, device=like.device)
        for _ in range(self.steps):
            images, targets = self.batch(self.batch_size, rng)
            gradient, logits = gradient_and_logits(self.model, theta, images.to(like), targets.to(like.device))
            momentum = MOMENTUM * momentum + gradient + WEIGHT_DECAY * theta
            theta = theta - self.lr * momentum
            seen, right = seen + len(targets), right + (logits.argmax(1) == targets.to(like.device)).sum()
        return {"theta": theta, "momentum": momentum, "seen": seen, "right": network["right"] + int(right)}


def _ages(networks: dict[str, Any]) -> list[str]:
    """Return the networks' names, the oldest first; a checkpoint may have lost their order."""
    return sorted(networks, key=int)


def _some(networks: dict[str, Any], count: int, rng: torch.Generator) -> list[str]:
    """Draw ``count`` of the networks' names, none twice; all if there are fewer."""
    names = _ages(networks)
    return [names[int(row)] for row in torch.randperm(len(names), generator=rng)[:count]]
