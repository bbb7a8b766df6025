"""What a method of a family may be asked for: trajectories, statistics, or nothing that is learned."""

from raydd.config.parsing import Config
from raydd.config.rules import FOREIGN
from raydd.config.schema import DistillConfig
from raydd.distillation.recipe import asks
from raydd.methods import METHODS, complete
from raydd.numerics.augment import augment


def check_method(config: DistillConfig) -> None:
    """Refuse an unknown method, before anything is loaded."""
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; use one of {', '.join(METHODS)}")


def needs_experts(config: DistillConfig) -> bool:
    """Whether a run reads a buffer: to match it, to look through it, or to ask it where to start."""
    looks = config.match == "statistics" and config.statistic.networks in {"experts", "mixed"}
    return config.match == "trajectories" or looks or asks(config)


def check_family(config: DistillConfig) -> None:
    """Refuse what the method does not match, settings of another family, and a strategy of unknown operations.

    Raises:
        ValueError: Naming the setting.
    """
    own = complete(DistillConfig(method=config.method))
    if config.match != own.match:
        raise ValueError(
            f"match = {config.match}, but method {config.method} matches {own.match}; choose another --method"
        )
    plain = DistillConfig()
    for name in FOREIGN[config.match]:
        said, usual, key = getattr(config, name), getattr(plain, name), name
        if said == usual:
            continue
        if isinstance(said, Config):
            part = next(part for part, value in said if value != getattr(usual, part))
            said, key = getattr(said, part), f"{name}.{part}"
        raise ValueError(
            f"{key} = {said} means nothing to method {config.method}, which matches {config.match}; drop it"
        )
    if config.match == "nothing" and config.initial != own.initial:
        raise ValueError(
            f"initial = {config.initial}, but method {config.method} is {own.initial}; choose another --method"
        )
    augment(config.statistic.augment, strategy=config.statistic.strategy)
