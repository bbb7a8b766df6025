"""The settings that fit a method, by what it matches: trajectories, statistics or nothing."""

from raydd.config.parsing import Config
from raydd.config.schema import DistillConfig
from raydd.distillation.statistic_matching import check_distance
from raydd.methods import find_method
from raydd.numerics.augment import augment

_SEGMENTS = (
    "rollouts",
    "labels",
    "window",
    "pruning",
    "intermediate",
    "balance",
    "perturbation",
    "convexify",
    "waypoints",
)
FOREIGN: dict[str, tuple[str, ...]] = {
    "trajectories": ("statistic",),
    "statistics": _SEGMENTS,
    "nothing": ("statistic", *_SEGMENTS, "gate", "ema", "probe_every"),
}
"""By what is matched: the settings that mean nothing there."""


def check_family(config: DistillConfig) -> None:
    """Refuse settings of another family, which would do nothing.

    Raises:
        ValueError: Naming the setting; see also `check_statistic`.
    """
    check_statistic(config)
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
    own = find_method(config.method).defaults.get("initial", plain.initial)
    if config.match == "nothing" and config.initial != own:
        raise ValueError(f"initial = {config.initial}, but method {config.method} is {own}; choose another --method")


def check_statistic(config: DistillConfig) -> None:
    """Refuse what a method cannot match, or cannot learn by what it matches.

    Raises:
        ValueError: Naming the settings.
    """
    own = find_method(config.method).match
    if config.match != own:
        raise ValueError(f"match = {config.match}, but method {config.method} matches {own}; choose another --method")
    if config.match == "nothing" and config.steps:
        raise ValueError(
            f"steps = {config.steps}, but {config.method} selects images and learns nothing; drop it, or start a "
            f"method that learns from them: --method dm --set initial={config.initial}"
        )
    if config.match == "statistics" and config.lr.lr:
        raise ValueError(
            f"lr.lr = {config.lr.lr:g}, but method {config.method} has no students whose learning rate could be "
            "learned; use --set lr.lr=0"
        )
    if config.match == "statistics" and config.lr.labels:
        raise ValueError(f"lr.labels = {config.lr.labels:g}, but method {config.method} learns no labels; use 0")
    if config.match == "statistics" and config.statistic.networks == "experts" and config.experts.kept is not None:
        raise ValueError(
            f"experts.kept = {list(config.experts.kept)} keeps few snapshots, and method {config.method} looks through "
            "all; drop it"
        )
    augment(config.statistic.augment, strategy=config.statistic.strategy)
    check_distance(config)
