"""Population based training: which settings may change during a trial, and how they are perturbed."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from raydd.numerics.rng import generator
from raydd.tuning.domains import Domain
from raydd.tuning.space import Space

RESAMPLE = 0.25
FACTORS = (0.8, 1.2)
TRIES = 20

CHANGEABLE = frozenset(
    (
        *("lr.images", "lr.labels", "lr.lr", "lr.momentum", "lr.labels_momentum"),
        *("lr.styles", "lr.styles_momentum"),
        *("student_steps", "span", "batch_size", "backprop", "gate", "waypoints"),
        *("window.low", "window.current", "window.high", "window.interval", "window.continuous"),
        *("pruning.rate", "pruning.metric", "intermediate", "balance", "perturbation"),
        *("statistic.of", "statistic.distance", "statistic.batch_real", "statistic.batch_synthetic"),
        *("statistic.each_class", "statistic.alpha", "statistic.region", "statistic.augment", "statistic.strategy"),
        *("statistic.refresh", "statistic.epochs", "statistic.lr", "statistic.batch_size"),
        *("statistic.queue_size", "statistic.queue_steps"),
    )
)
"""Settings that only a step reads: the start, the learned tensors and the checkpoint do not depend on them."""

OPTIONAL_RATES = ("lr.labels", "lr.lr", "lr.styles")
"""Learning rates that, at 0, mean that a tensor is not learned at all."""


def check_changeable(space: Space) -> None:
    """Refuse domains of settings that cannot change during a trial."""
    for key, domain in space.domains.items():
        if key not in CHANGEABLE:
            raise ValueError(
                f"domains.{key}: pbt changes settings during a trial, and this one cannot change; "
                "move it to set, or use another scheduler"
            )
        usual = [space.settings({})[key]] if domain.when is not None else []
        if key in OPTIONAL_RATES and 0 in (*(domain.extent() or ()), *usual):
            raise ValueError(
                f"domains.{key}: pbt changes settings during a trial, and 0 would stop learning this tensor; "
                "remove 0 from the domain, or use another scheduler"
            )


def perturb(space: Space, values: Mapping[str, Any], *path: str | int) -> dict[str, Any]:
    """Return the settings with which a trial continues from another trial's checkpoint.

    Each searched setting is resampled with probability 1/4. Otherwise a number is multiplied by 0.8 or 1.2 and clipped
    to its domain, an integer changes by at least one step, and a choice moves to a neighbour or stays at the end. The
    draw is repeated where no setting changed, because the trial would then repeat the other's steps.

    Reference:
        Jaderberg et al., arXiv 1711.09846, section 4.1 ("perturb", "resample").
    """
    rng = generator(space.seed, *path)

    def change(key: str, domain: Domain) -> Any:
        if key not in values or _uniform(rng) < RESAMPLE:
            return domain.at(_uniform(rng))
        return _neighbour(domain, values[key], up=_uniform(rng) < 0.5)

    for _ in range(TRIES):
        perturbed = space.draw(change)
        if perturbed != values and space.violated(perturbed) is None:
            return perturbed
    return dict(values)


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng, dtype=torch.float64))


def _neighbour(domain: Domain, value: Any, *, up: bool) -> Any:
    """Return a value slightly above or below another, inside the domain."""
    if domain.choice is not None:
        index = domain.choice.index(value) + (1 if up else -1)
        return domain.choice[min(max(index, 0), len(domain.choice) - 1)]
    target = min(max(value * FACTORS[up], domain.low), domain.high)
    if not domain.whole:
        return target
    low, step = int(domain.low), domain.step
    indices = round((target - low) / step), (int(value) - low) // step + (1 if up else -1)
    last = math.floor((domain.high - low) / step)
    return low + step * min(max((max if up else min)(indices), 0), last)
