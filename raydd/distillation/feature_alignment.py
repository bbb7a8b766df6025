"""Feature alignment: mean features of every layer agree, and the synthetic ones tell the real classes apart.

Shapes: `N` synthetic images, `B` batch, `C H W` image, `F` features, `K` classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.network_sources import Networks
from raydd.distillation.real_images import Real, RealImages
from raydd.distillation.setup import Recipe, Setup, initial, leaves
from raydd.distillation.statistic_matching import networks_of
from raydd.numerics.augment import Augment, augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import derived


@dataclass(frozen=True)
class FeatureAlignment:
    r"""Squared distances of mean features of each layer, and a classification of real images by synthetic means.

    sum_l w_l mean_c |mean f_l(T_c) - mean f_l(S_c)|^2 + beta sum_i CE(f(x_i) M^T, y_i),

    where f are the features of the last layer and the rows of M (K, F) their means over the synthetic images of a
    class; real images x_i of all classes are in the sum.

    Attributes:
        networks: Where the network of an outer step comes from.
        model: The network as a function of theta.
        real: Where real images come from.
        classes: K; each needs a synthetic image.
        batch_real: Real images a class and step.
        augment: Siamese: one view for all images of a step.
        weights: w_l from the first layer on; the last layer's own is in ``last``, and those between have the last of
            these.
        last: Weight of the last layer.
        discrimination: beta.

    Reference:
        Wang et al., arXiv 2203.01531 (CAFE), with the weights of its official code.
    """

    parts: ClassVar[int] = 1
    joint: ClassVar[bool] = False
    networks: Networks[Any]
    model: FlatModel
    real: Real
    classes: int
    batch_real: int
    augment: Augment
    weights: tuple[float, ...] = (1.0, 1.0, 0.1, 0.1)
    last: float = 1.0
    discrimination: float = 0.01

    def init(self, rng: torch.Generator) -> dict[str, Any]:
        """Return the networks' own state."""
        return {"networks": self.networks.init(rng)}

    def loss(
        self, synset: SyntheticSet, state: dict[str, Any], step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of all classes, a scalar; all draws come from ``rng``."""
        pair, carried = self.networks.draw(synset, state["networks"], step, derived(rng, "networks"))
        seen = synset.decoded()
        batches = [self.real(label, self.batch_real, rng) for label in range(self.classes)]
        labels = torch.arange(self.classes).repeat_interleave(torch.tensor([len(batch) for batch in batches]))
        real, labels = torch.cat(batches).to(seen.images), labels.to(seen.images.device)
        view = self.augment.draw(seen.images.shape, rng)
        with torch.no_grad():
            theirs = self.model.layers(pair.theta, view(real))
        ours = self.model.layers(pair.theta, view(seen.images))
        return self.compare(theirs, labels, ours, seen.hard_labels), {"networks": carried}

    def compare(self, theirs: tuple[Tensor, ...], labels: Tensor, ours: tuple[Tensor, ...], own: Tensor) -> Tensor:
        """Return the loss of features (B, F) of real images with classes (B,), and (N, F) of synthetic ones."""
        weights = [self.weights[min(layer, len(self.weights) - 1)] for layer in range(len(ours) - 1)] + [self.last]
        loss = ours[-1].sum() * 0
        for weight, real, syn in zip(weights, theirs, ours, strict=True):
            gaps = self._means(real, labels) - self._means(syn, own)
            loss = loss + weight * gaps.square().sum(1).mean()
        logits = theirs[-1] @ self._means(ours[-1], own).T
        return loss + self.discrimination * len(labels) * cross_entropy(logits, labels)

    def _means(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mean features (K, F) of each class."""
        members = torch.nn.functional.one_hot(labels, self.classes).to(features)
        return (members / members.sum(0).clamp(min=1)).T @ features


def align_features(setup: Setup) -> Recipe:
    """Return the recipe of feature alignment."""
    config, work = setup.config, setup.work
    chosen, start, model = config.statistic, initial(setup), setup.model()
    real = RealImages(work.feed(work.dataset.train))
    shared = partial(augment, chosen.augment, flip=work.dataset.flip, strategy=chosen.strategy)
    networks = networks_of(setup, model, real)
    objective = FeatureAlignment(
        networks, model, real, len(work.dataset.classes), chosen.batch_real, shared(siamese=True)
    )
    return Recipe(objective, start, leaves(config, start.transform), config.gate, config.ema)
