"""Contrast of styles: two styles of a base must look different to a network that learns to see them as alike.

Shapes: `N` bases, `B` of them a batch, `S` styles, `C H W` image, `P` parameters.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.setup import Setup
from raydd.numerics.augment import Augment
from raydd.numerics.contrast import similarity, supervised_contrast
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import derived, moved

State = dict[str, Tensor]


@dataclass(frozen=True)
class StyleContrast:
    r"""The similarity of two styles of the same bases, through a network that is trained to raise it.

    mean_b (cos(f(A(s(b))), f(A(s'(b)))) + 1) / 2 for two styles s, s' drawn anew in every outer step. Between two outer
    steps the network takes a step on

        CE + weight (1 - similarity) + weight SupCon

    of another such pair, so that features tell classes and not styles.

    Attributes:
        model: The network; f are its features before the last layer, A is the augmentation.
        augment: Drawn afresh for every batch.
        weight: Of similarity and supervised contrast in the network's loss.
        batch_size: B; None takes all.

    Reference:
        Liu et al., arXiv 2210.16774 (HaBa), section 3.3; weights, learning rate and momentum of its official code.

    Differs:
        The official network has the layers of ConvNet for images of 32 x 32; here it is one of ``experts.network``.
    """

    parts: ClassVar[int] = 1
    joint: ClassVar[bool] = False
    LR: ClassVar[float] = 0.001
    MOMENTUM: ClassVar[float] = 0.9
    model: FlatModel
    augment: Augment
    weight: float
    batch_size: int | None = None

    def init(self, rng: torch.Generator) -> State:
        """Return a fresh network (P,) and its velocity."""
        theta = self.model.init(rng)
        return {"theta": theta, "velocity": torch.zeros_like(theta)}

    def loss(
        self, synset: SyntheticSet, state: State, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, State]:
        """Return the similarity, a scalar; from the second outer step on the network takes its own step before."""
        after = {name: value.to(synset.images) for name, value in state.items()}
        if step:
            after = self.train(after, *self.pairs(synset, derived(rng, "network")))
        images, _ = self.pairs(synset, derived(rng, "contrast"))
        return similarity(*self.model.features(after["theta"], images).chunk(2)), after

    def train(self, state: State, images: Tensor, targets: Tensor) -> State:
        """Return the network after a step of SGD on pairs (2 B, C, H, W), with labels (2 B,) or (2 B, K)."""
        theta = state["theta"].detach().requires_grad_()
        with torch.enable_grad():
            loss = self.network_loss(theta, images.detach(), targets.detach())
            (gradient,) = torch.autograd.grad(loss, theta)
        velocity = self.MOMENTUM * state["velocity"] + gradient
        return {"theta": theta.detach() - self.LR * velocity, "velocity": velocity}

    def network_loss(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """Return the network's loss at theta (P,) of pairs (2 B, C, H, W) with labels (2 B,) or (2 B, K)."""
        features = self.model.features(theta, images)
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        apart = 1 - similarity(*features.chunk(2)) + supervised_contrast(features, labels)
        return cross_entropy(self.model(theta, images), targets) + self.weight * apart

    def pairs(self, synset: SyntheticSet, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return augmented images (2 B, C, H, W) of bases in one style, then in another, and their labels."""
        styles, seen = synset.formation.styles, synset.decoded()
        bases = torch.randperm(len(synset.images), generator=rng)[: self.batch_size]
        first, second = torch.randperm(styles, generator=rng)[:2]
        rows = moved(torch.cat([bases * styles + first, bases * styles + second]), seen.images.device)
        images = seen.images[rows]
        return self.augment.draw(images.shape, rng)(images), seen.targets[rows]


def contrast_styles(setup: Setup) -> StyleContrast:
    """Return the contrast of the settings' styles."""
    config = setup.config
    return StyleContrast(setup.model(), setup.work.augment, config.formation.contrast, config.batch_size)
