"""Population based training: which settings may change in the middle of a trial, and how they are changed."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from raydd.numerics.rng import generator
from raydd.tuning.domains import Domain
from raydd.tuning.space import Space

ANEW = 0.25
FACTORS = (0.8, 1.2)
TRIES = 20

CHANGEABLE = frozenset(
    (
        *("lr.images", "lr.labels", "lr.lr", "lr.momentum", "lr.labels_momentum"),
        *("student_steps", "span", "batch_size", "backprop", "gate", "waypoints"),
        *("window.low", "window.current", "window.high", "window.interval", "window.continuous"),
        *("pruning.rate", "pruning.metric", "intermediate", "balance", "perturbation"),
        *("statistic.of", "statistic.distance", "statistic.batch_real", "statistic.batch_synthetic"),
        *("statistic.each_class", "statistic.alpha", "statistic.region", "statistic.augment", "statistic.strategy"),
        *("statistic.refresh", "statistic.epochs", "statistic.lr", "statistic.batch_size"),
        *("statistic.queue_size", "statistic.queue_steps"),
    )
)
"""Settings of a step alone: neither the start, nor what is learned, nor what is carried along depends on them."""

SWITCHES = ("lr.labels", "lr.lr")
"""Step sizes of what is not learned at all where they are 0."""


def check_changeable(space: Space) -> None:
    """Refuse to search what cannot change in the middle of a trial.

    Raises:
        ValueError: Naming the key and the remedy.
    """
    for key, domain in space.domains.items():
        if key not in CHANGEABLE:
            raise ValueError(
                f"domains.{key}: pbt changes settings in the middle of a trial, and this one cannot; "
                "put it under set, or use another scheduler"
            )
        usual = [space.settings({})[key]] if domain.when is not None else []
        if key in SWITCHES and 0 in (*(domain.extent() or ()), *usual):
            raise ValueError(
                f"domains.{key}: pbt changes settings in the middle of a trial, and 0 would end what is learned; "
                "leave 0 out, or use another scheduler"
            )


def perturb(space: Space, values: Mapping[str, Any], *path: str | int) -> dict[str, Any]:
    """The settings that a trial goes on with, once it has taken over another's set.

    Each searched setting is drawn anew with probability 1/4. Else a number is multiplied by 0.8 or 1.2, and put back
    into its domain, a whole one by a step at least; and a choice gives way to a neighbour, or stays at the end. All
    is done again where nothing has changed: the trial would repeat the other's steps, draw by draw.

    Args:
        space: What is searched.
        values: The other trial's settings, by dotted name.
        *path: What the draws are for; they come from the space's seed and this.

    Returns:
        Allowed settings; the other trial's own where `TRIES` changes of them were not allowed.

    Reference:
        Jaderberg et al., arXiv 1711.09846, section 4.1 ("perturb", "resample").
    """
    rng = generator(space.seed, *path)

    def changed(key: str, domain: Domain) -> Any:
        if key not in values or _uniform(rng) < ANEW:
            return domain.at(_uniform(rng))
        return _moved(domain, values[key], up=_uniform(rng) < 0.5)

    for _ in range(TRIES):
        found = space.draw(changed)
        if found != values and space.violated(found) is None:
            return found
    return dict(values)


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng, dtype=torch.float64))


def _moved(domain: Domain, value: Any, *, up: bool) -> Any:
    """A value a little above or below another, inside the domain."""
    if domain.choice is not None:
        place = domain.choice.index(value) + (1 if up else -1)
        return domain.choice[min(max(place, 0), len(domain.choice) - 1)]
    target = min(max(value * FACTORS[up], domain.low), domain.high)
    if not domain.whole:
        return target
    low, step = int(domain.low), domain.step
    places = round((target - low) / step), (int(value) - low) // step + (1 if up else -1)
    last = math.floor((domain.high - low) / step)
    return low + step * min(max((max if up else min)(places), 0), last)
