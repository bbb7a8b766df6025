"""Statistic matching: to a network, synthetic images of a class look as real ones do.

Shapes: `N` synthetic images, `B` batch, `C H W` image, `F` features, `P` parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.class_shards import class_division
from raydd.distillation.image_statistics import STATISTICS, History, Statistic
from raydd.distillation.network_queue import Queue
from raydd.distillation.network_sources import Exchanged, Mixed, NetworkPair, Networks, RandomInit, Snapshots, Trained
from raydd.distillation.parts import Division
from raydd.distillation.real_images import Real, RealImages, Representatives
from raydd.distillation.setup import Recipe, Setup, initial, leaves
from raydd.numerics.augment import Augment, augment
from raydd.numerics.flat import FlatModel, classification_loss
from raydd.numerics.rng import derived, moved
from raydd.numerics.statistics import Characteristic, Distance, cosine, covariances, gaussian, means, squared


@dataclass(frozen=True)
class StatisticMatching:
    r"""The distance between a statistic of real and of synthetic images, class by class.

    sum_c D(phi(A(T_c)), phi(A(S_c))) + alpha p mean_{s in S_c} CE(f_judge(A(s)), y_s)

    T_c are real and S_c synthetic images of class c, A is one view for both, drawn anew for every class, and phi is
    taken through a network that ``networks`` gives for the whole outer step; p is its trust in the judge, mostly 1.
    The loss of a class depends on its own synthetic images, the networks and its own generator alone.

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
        history: How the mean features of a class stay near their running mean; None leaves them free.
        representatives: Chooses the real images; None draws them.

    Reference:
        arXiv 2006.05929 (DC), 2102.08259 (DSA), 2110.04181 (DM), 2512.02469 (TGDD, Eq. 4-6 and Algorithm 1).

    Differs:
        TGDD's code, and DANCE's (arXiv 2406.01063), step after every class, where TGDD's Algorithm 1 has one step for
        all. DANCE's code minimises the cross-entropy in separate steps after all classes; here both terms share a step.
    """

    networks: Networks[Any]
    model: FlatModel
    statistic: Statistic
    distance: Distance | Characteristic
    real: Real
    classes: int
    batch_real: int
    augment: Augment
    batch_synthetic: int | None = None
    each_class: bool = False
    alpha: float = 0.0
    history: History | None = None
    representatives: Representatives | None = None

    @property
    def parts(self) -> int:
        """One loss a class, so that no more than a class's graph is held."""
        return self.classes

    @property
    def joint(self) -> bool:
        """Whether the optimiser steps once for all classes."""
        return not self.each_class

    def init(self, rng: torch.Generator) -> dict[str, Any]:
        """Return the networks' own state; within an outer step it also holds the networks in use."""
        carried = {"history": self.history, "chosen": self.representatives}
        return {"networks": self.networks.init(rng)} | {name: {} for name, part in carried.items() if part}

    def loss(
        self, synset: SyntheticSet, state: dict[str, Any], step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss of class ``part``, a scalar; all its draws come from ``rng``.

        Class 0 draws the networks of the outer step, from a generator derived from its own.
        """
        if part == 0:
            pair, carried = self.networks.draw(synset, state["networks"], step, derived(rng, "networks"))
        else:
            pair, carried = NetworkPair(state["theta"], state["judge"], state["trust"]), state["networks"]
        after = {"networks": carried}
        if part + 1 < self.parts:
            after |= pair._asdict()
        real = None
        if self.representatives is not None:
            chosen, every = dict(state["chosen"]), self.representatives.every
            if str(part) not in chosen or step % every == 0:
                chosen[str(part)] = self.representatives.choose(pair.theta, part, self.batch_real, rng)
            after["chosen"], real = chosen, self.representatives.images.take(chosen[str(part)])
        loss, current = self._terms(synset, pair, part, rng, real)
        if self.history is not None:
            past = dict(state["history"])
            added, past[str(part)] = self.history(current, past.get(str(part)), step)
            loss, after["history"] = loss + added, past
        return loss, after

    def class_loss(self, synset: SyntheticSet, pair: NetworkPair, label: int, rng: torch.Generator) -> Tensor:
        """Return the terms of one class through given networks; 0 where it has no synthetic image.

        Args:
            synset: The synthetic set; images of other classes are not used.
            pair: The networks of the outer step.
            label: The class.
            rng: A generator for this class and outer step alone.
        """
        return self._terms(synset, pair, label, rng)[0]

    def _terms(
        self, synset: SyntheticSet, pair: NetworkPair, label: int, rng: torch.Generator, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the terms of a class, and the statistic of its synthetic images; None draws the real ones."""
        images, targets = self._synthetic(synset, label, rng)
        if not len(images):
            return images.sum() * 0, images.flatten(1)
        real = (self.real(label, self.batch_real, rng) if real is None else real).to(images)
        view = self.augment.draw(images.shape, rng)
        augmented = view(images)
        with torch.no_grad():
            labels = targets.new_full((len(real),), label).long()
            wanted = self.model.run(self.statistic, pair.theta, view(real), labels)
        current = self.model.run(self.statistic, pair.theta, augmented, targets)
        distance = self.distance
        if isinstance(distance, Characteristic):
            distance = distance.draw(wanted.shape[1], rng)
        loss = distance(wanted, current)
        if weight := self.alpha * pair.trust:
            loss = loss + weight * self.model.run(classification_loss, pair.judge, augmented, targets, scalar=True)
        return loss, current

    def divide(self, synset: SyntheticSet, seed: int, shards: int, rollouts: int = 1) -> Division:
        """Return the division of an outer step into groups of classes."""
        assert rollouts == 1, "rollouts are of trajectories"
        return class_division(self, synset, seed, shards)

    def _synthetic(self, synset: SyntheticSet, label: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return decoded images (B, C, H, W) of a class and their labels: all, or ``batch_synthetic`` at random."""
        rows = synset.rows(label)
        if not len(rows):
            return synset.images[rows], synset.targets[rows]
        own = synset.with_leaves({"images": synset.images[rows], "labels": synset.labels[rows]}).decoded()
        images, targets = own.images, own.targets
        if self.batch_synthetic is None or len(images) <= self.batch_synthetic:
            return images, targets
        chosen = moved(torch.randperm(len(images), generator=rng)[: self.batch_synthetic], images.device)
        return images[chosen], targets[chosen]


def match_statistics(setup: Setup) -> Recipe:
    """Return the recipe of statistic matching with every part that the settings switch on.

    Raises:
        ValueError: The settings need experts and there are none.
    """
    config, work, model = setup.config, setup.work, setup.model()
    chosen, start = config.statistic, initial(setup)
    real = RealImages(work.feed(work.dataset.train))
    shared = augment(chosen.augment, flip=work.dataset.flip, siamese=True, strategy=chosen.strategy)
    objective = StatisticMatching(
        networks=networks_of(setup, model, real),
        model=model,
        statistic=STATISTICS[chosen.of],
        distance=DISTANCES[chosen.distance](model),
        real=real,
        classes=len(work.dataset.classes),
        batch_real=chosen.batch_real,
        augment=shared,
        batch_synthetic=chosen.batch_synthetic,
        each_class=chosen.each_class,
        alpha=chosen.alpha,
        history=History(chosen.history, chosen.history_from) if chosen.history else None,
        representatives=Representatives(real, model, chosen.cluster_every) if chosen.cluster_every else None,
    )
    return Recipe(objective, start, leaves(config, start.transform), config.gate, config.ema)


def networks_of(setup: Setup, model: FlatModel, real: RealImages) -> Networks[Any]:
    """Return where the networks of outer steps come from."""
    chosen = setup.config.statistic
    networks = NETWORKS[chosen.networks](setup, model, real)
    exchanged = {"theta": chosen.extractor, "judge": chosen.judge}
    uses = tuple(use for use, kind in exchanged.items() if kind == "random")
    return Exchanged(networks, model, uses) if uses else networks


def _trained(setup: Setup, model: FlatModel, real: RealImages) -> Networks[Any]:
    """Return networks whose training augments each image by itself, as both sides are augmented."""
    chosen = setup.config.statistic
    own = augment(chosen.augment, flip=setup.work.dataset.flip, strategy=chosen.strategy)
    return Trained(model, chosen.refresh, chosen.epochs, chosen.lr, chosen.batch_size, own)


def _trained_on_real(setup: Setup, model: FlatModel, real: RealImages) -> Networks[Any]:
    """Return networks that are trained on real images without augmentation, one at a time."""
    chosen = setup.config.statistic
    return Queue(model, real.mixed, 1, chosen.refresh, chosen.queue_steps, chosen.lr, chosen.batch_size, initial=1)


def _queue(setup: Setup, model: FlatModel, real: RealImages) -> Networks[Any]:
    """Return networks that are trained on real images without augmentation."""
    chosen = setup.config.statistic
    return Queue(model, real.mixed, chosen.queue_size, chosen.refresh, chosen.queue_steps, chosen.lr, chosen.batch_size)


def _snapshots(setup: Setup) -> Networks[Any]:
    chosen = setup.config.statistic
    return Snapshots(setup.experts, chosen.region, last=chosen.judge == "last")


NETWORKS: dict[str, Callable[[Setup, FlatModel, RealImages], Networks[Any]]] = {
    "random": lambda setup, model, real: RandomInit(model),
    "trained": _trained,
    "experts": lambda setup, model, real: _snapshots(setup),
    "mixed": lambda setup, model, real: Mixed(setup.experts),
    "queue": _queue,
    "real": lambda setup, model, real: _trained_on_real(setup, model, real),
}
"""By the name of ``statistic.networks``."""

DISTANCES: dict[str, Callable[[FlatModel], Distance | Characteristic]] = {
    "means": lambda model: means,
    "covariances": lambda model: covariances,
    "characteristic": lambda model: Characteristic(),
    "squared": lambda model: partial(squared, layout=model.layout),
    "cosine": lambda model: partial(cosine, layout=model.layout),
    "gaussian": lambda model: gaussian,
}
"""By the name of ``statistic.distance``."""
