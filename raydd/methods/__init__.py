"""The methods, each a composition of parts: the only place that knows their names.

A method is a function from a `Setup` to a `Recipe`, and one row of its family's `METHODS`. What it sets without being
asked is its row of `DEFAULTS`; presets and users' settings lie over it, and every part can be had without the
others, or with another method's: ``--method mtt --set pruning.rate=0.1``.
"""

from collections.abc import Callable

from raydd.config.parsing import Tree, build
from raydd.config.schema import DistillConfig
from raydd.distillation.recipe import Recipe, Setup
from raydd.methods import coreset, statistic, trajectory

METHODS: dict[str, Callable[[Setup], Recipe]] = trajectory.METHODS | statistic.METHODS | coreset.METHODS
"""The methods by name, as ``DistillConfig.method`` takes them; a script may add a row of its own."""

PER_IMAGE: dict[str, dict[str, float]] = statistic.PER_IMAGE
"""``lr.images`` per stored image of a class, where it grows with ``ipc``: by method and data set, "" is all others."""

DEFAULTS: dict[str, Tree] = trajectory.DEFAULTS | statistic.DEFAULTS | coreset.DEFAULTS
"""What a method sets where neither a preset nor the user does."""


def complete(config: DistillConfig, *, partial: bool = False) -> DistillConfig:
    """Return the configuration with the method's own values where nobody set any.

    Args:
        config: What was set.
        partial: See `raydd.config.parsing.build`.

    >>> complete(DistillConfig(method="dpd")).pruning.rate, complete(DistillConfig()).pruning.rate
    (0.1, 0.0)
    >>> complete(DistillConfig(method="tgdd", ipc=20)).lr.images
    0.2
    """
    rates, scaled = PER_IMAGE.get(config.method), {}
    if rates is not None:
        rate = rates.get(config.data.dataset, rates[""])
        scaled = {"lr": {"images": round(rate * config.ipc, 12)}}  # 0.3, not 0.30000000000000004
    own, said = DEFAULTS.get(config.method, {}), config.model_dump(exclude_unset=True)
    return build(DistillConfig, own, scaled, said, partial=partial)
