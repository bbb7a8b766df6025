"""Statistic matching put together: networks, statistic and distance by the names of the settings."""

from collections.abc import Callable
from functools import partial
from typing import Any

from raydd.config.rules import check_distance
from raydd.distillation.network_queue import Queue
from raydd.distillation.network_sources import Mixed, Networks, RandomInit, Snapshots, Trained
from raydd.distillation.recipe import Recipe, Setup, check_network, initial, leaves
from raydd.distillation.statistic_objective import STATISTICS, RealImages, StatisticMatching
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.statistics import Distance, cosine, gaussian, means


def statistics(setup: Setup) -> Recipe:
    """Statistic matching with every part that the settings switch on.

    Raises:
        ValueError: The settings need experts and there are none, a distance does not fit its statistic, or the network
            has batch norm.
    """
    config, work, model = setup.config, setup.work, FlatModel(setup.work.build)
    check_distance(config)
    check_network(config, model)
    chosen, start = config.statistic, initial(setup)
    real = RealImages(work.feed(work.dataset.train))
    shared = augment(chosen.augment, flip=work.dataset.flip, siamese=True, strategy=chosen.strategy)
    objective = StatisticMatching(
        networks=NETWORKS[chosen.networks](setup, model, real),
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
    )
    return Recipe(objective, start, leaves(config, start.transform), config.gate, config.ema)


def _trained(setup: Setup, model: FlatModel, real: RealImages) -> Networks[Any]:
    """Students see one augmentation an image, of the kind and strategy that both sides share."""
    chosen = setup.config.statistic
    own = augment(chosen.augment, flip=setup.work.dataset.flip, strategy=chosen.strategy)
    return Trained(model, chosen.refresh, chosen.epochs, chosen.lr, chosen.batch_size, own)


def _queue(setup: Setup, model: FlatModel, real: RealImages) -> Networks[Any]:
    """Networks are trained on plain real images."""
    chosen = setup.config.statistic
    return Queue(model, real.mixed, chosen.queue_size, chosen.refresh, chosen.queue_steps, chosen.lr, chosen.batch_size)


NETWORKS: dict[str, Callable[[Setup, FlatModel, RealImages], Networks[Any]]] = {
    "random": lambda setup, model, real: RandomInit(model),
    "trained": _trained,
    "experts": lambda setup, model, real: Snapshots(setup.experts, setup.config.statistic.region),
    "mixed": lambda setup, model, real: Mixed(setup.experts),
    "queue": _queue,
}
"""By the name of ``statistic.networks``."""

DISTANCES: dict[str, Callable[[FlatModel], Distance]] = {
    "means": lambda model: means,
    "cosine": lambda model: partial(cosine, layout=model.layout),
    "gaussian": lambda model: gaussian,
}
"""By the name of ``statistic.distance``."""
