"""Statistic matching: synthetic images of a class shall look to networks as real ones of it do.

Shapes: `N` synthetic images, `B` batch, `C H W` image, `F` features, `P` parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raydd.data.batches import Feed
from raydd.data.synset import SyntheticSet
from raydd.distillation.network_sources import Look, Networks, slope
from raydd.numerics.augment import Augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import derived
from raydd.numerics.statistics import Distance

Statistic = Callable[[FlatModel, Tensor, Tensor, Tensor], Tensor]
"""(network, theta (P,), images (B, C, H, W), labels (B,) or (B, K)) -> what is compared."""

Real = Callable[[int, int, torch.Generator], Tensor]
"""(class, at most so many, rng) -> real images (B, C, H, W) of the class, none twice."""


def features(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """What the last layer sees, (B, F)."""
    return model.features(theta, images)


def layers(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """The features of every layer, one behind the other, (B, F)."""
    return torch.cat(model.layers(theta, images), dim=1)


STATISTICS: dict[str, Statistic] = {"features": features, "layers": layers, "gradient": slope}
"""By the name of ``statistic.of``."""


@dataclass(frozen=True, eq=False)
class RealImages:
    """Preprocessed training images, by class.

    Attributes:
        feed: The training split.
    """

    feed: Feed
    _rows: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        targets = self.feed.targets.cpu()
        rows = tuple(torch.nonzero(targets == label)[:, 0] for label in range(int(targets.max()) + 1))
        object.__setattr__(self, "_rows", rows)

    def __call__(self, label: int, count: int, rng: torch.Generator) -> Tensor:
        """Images (B, C, H, W) of a class, drawn without replacement: ``count``, or all there are if fewer."""
        rows = self._rows[label]
        return self.feed(rows[torch.randperm(len(rows), generator=rng)[:count]])[0]

    def mixed(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) of any class and their classes (B,), drawn without replacement."""
        return self.feed(torch.randperm(len(self.feed), generator=rng)[:count])


@dataclass(frozen=True)
class StatisticMatching:
    r"""The distance between a statistic of real and of synthetic images, class by class.

    sum_c D(phi(A(T_c)), phi(A(S_c))) + alpha p mean_{s in S_c} CE(f_judge(A(s)), y_s)

    T_c are real and S_c synthetic images of class c, A is one view for both, drawn anew for every class, and phi is
    taken through a network that ``networks`` gives for the whole outer step; p is its trust in the judge, mostly 1.
    The loss of a class depends on the synthetic images of that class, the networks and the generator of that class
    and outer step; nothing that is drawn for another class changes it.

    Attributes:
        networks: Where the networks of an outer step come from.
        model: The network as a function of theta.
        statistic: phi.
        distance: D, of the real and the synthetic statistic.
        real: Where real images come from.
        classes: How many classes there are.
        batch_real: Real images a class and step.
        batch_synthetic: At most so many synthetic images a class and step, decoded; None takes all.
        augment: A, siamese: its views fit batches of any size.
        each_class: Take an optimiser step a class; else one, on the sum.
        alpha: Weight of the cross-entropy; 0 leaves it out.

    Reference:
        arXiv 2006.05929 (DC), 2102.08259 (DSA), 2110.04181 (DM), 2512.02469 (TGDD, Eq. 4-6 and Algorithm 1).

    Differs:
        TGDD's code, and DANCE's (arXiv 2406.01063), step after every class, where TGDD's Algorithm 1 has one step for
        all. DANCE's code takes the cross-entropy in steps of their own after all classes were matched; here both
        terms share a step.
    """

    networks: Networks[Any]
    model: FlatModel
    statistic: Statistic
    distance: Distance
    real: Real
    classes: int
    batch_real: int
    augment: Augment
    batch_synthetic: int | None = None
    each_class: bool = False
    alpha: float = 0.0

    @property
    def parts(self) -> int:
        """One loss a class, so that no more than a class's graph is held."""
        return self.classes

    @property
    def joint(self) -> bool:
        """Whether the optimiser steps once for all classes."""
        return not self.each_class

    def init(self, rng: torch.Generator) -> dict[str, Any]:
        """The networks' own state; within an outer step, the networks in use are there too."""
        return {"networks": self.networks.init(rng)}

    def loss(
        self, synset: SyntheticSet, state: dict[str, Any], step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, dict[str, Any]]:
        """The loss of class ``part``, a scalar; all its draws come from ``rng``.

        Class 0 brings the networks of the outer step: they are drawn from a generator of their own, derived from its.
        """
        if part == 0:
            look, kept = self.networks.draw(synset, state["networks"], step, derived(rng, "networks"))
        else:
            look, kept = Look(state["theta"], state["judge"], state["trust"]), state["networks"]
        after = {"networks": kept}
        if part + 1 < self.parts:
            after |= look._asdict()
        return self.class_loss(synset, look, part, rng), after

    def class_loss(self, synset: SyntheticSet, look: Look, label: int, rng: torch.Generator) -> Tensor:
        """The terms of one class through given networks; 0 where no synthetic image is of it.

        Args:
            synset: Its images of other classes are not looked at.
            look: The networks of the outer step.
            label: The class.
            rng: A generator for this class and outer step alone.
        """
        images, targets = self._synthetic(synset, label, rng)
        if not len(images):
            return images.sum() * 0
        real = self.real(label, self.batch_real, rng).to(images)
        view = self.augment.draw(images.shape, rng)
        shown = view(images)
        with torch.no_grad():
            wanted = self.statistic(self.model, look.theta, view(real), targets.new_full((len(real),), label).long())
        found = self.statistic(self.model, look.theta, shown, targets)
        loss = self.distance(wanted, found)
        if weight := self.alpha * look.trust:
            loss = loss + weight * cross_entropy(self.model(look.judge, shown), targets)
        return loss

    def _synthetic(self, synset: SyntheticSet, label: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Decoded images (B, C, H, W) of a class and their labels: all, or as many as are wanted, at random."""
        rows = torch.nonzero(synset.hard_labels == label)[:, 0]
        if not len(rows):
            return synset.images[rows], synset.targets[rows]
        own = synset.with_leaves({"images": synset.images[rows], "labels": synset.labels[rows]}).decoded()
        images, targets = own.images, own.targets
        if self.batch_synthetic is None or len(images) <= self.batch_synthetic:
            return images, targets
        chosen = torch.randperm(len(images), generator=rng)[: self.batch_synthetic].to(images.device)
        return images[chosen], targets[chosen]
