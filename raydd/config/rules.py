"""Rules between the settings of a distillation that need neither data nor experts.

`own_rules` hold whatever a method sets, and the schema checks them; `method_rules` are of a configuration that has its
method's own values.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raydd.config.schema import DistillConfig

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
    "nothing": ("statistic", *_SEGMENTS, "gate", "ema", "probe_every", "shards"),
}
"""By what is matched: the settings that mean nothing there."""

FITS: dict[str, tuple[str, ...]] = {
    "features": ("means", "gaussian"),
    "layers": ("means", "gaussian"),
    "gradient": ("cosine",),
}
"""The distances that each statistic can be compared by."""

SOFT_LABELS = frozenset({"correctly_classified", "correctly_classified_mean"})
"""The starts with soft labels."""


def unread(key: str, match: str) -> bool:
    """Return whether a setting means nothing to methods that match this.

    >>> unread("pruning.rate", "statistics"), unread("pruning.rate", "trajectories")
    (True, False)
    """
    return key.partition(".")[0] in FOREIGN[match]


def own_rules(config: "DistillConfig") -> None:
    """Refuse settings that contradict each other whatever the method is.

    Raises:
        ValueError: Naming both settings and the remedy.
    """
    _window(config)
    check_scores(config, config.data.validation)
    kept = config.experts.kept
    if kept is not None and config.waypoints not in ((), kept):
        raise ValueError(f"waypoints {config.waypoints} and experts.kept {kept} differ; give both the same epochs")
    formation = config.formation
    if formation.decode == "bounded" and formation.bound < config.ipc:
        raise ValueError(
            f"formation.bound {formation.bound} is less than ipc {config.ipc}, so that images would be left out; "
            f"use --set formation.bound={config.ipc} or more"
        )
    if config.data.preprocessing == "zca":
        _whitened(config)
    if config.labels == "expert":
        _expert_labels(config)


def _window(config: "DistillConfig") -> None:
    low, current, high = config.window.low, config.window.current, config.window.high
    if config.window.auto or high is None:  # T+ is then found, or fitted to the experts
        return
    if current is not None and not low <= current <= high:
        raise ValueError(f"window {low}, {current}, {high}: T- <= T <= T+ must hold; set window.low, .current, .high")
    if low > high:
        raise ValueError(f"window ({low}, {high}) holds no epoch; use T- <= T+, for example --window 0:{high}")


def check_scores(config: "DistillConfig", held_out: float, share: float = 0.1) -> None:
    """Refuse scores on a validation split of no images, and to keep scored sets where none is scored.

    Args:
        config: The run.
        held_out: Images of the validation split, or their share.
        share: A share that holds some out.

    Raises:
        ValueError: Naming the settings.
    """
    if config.evaluate_every is not None and not held_out:
        raise ValueError(
            f"evaluate_every = {config.evaluate_every} needs a validation split, and with "
            f"data.validation={config.data.validation:g} there is none; use --set data.validation={share:g}, or drop "
            "evaluate_every: the result is then the last step"
        )
    if config.keep_scored and config.evaluate_every is None:
        raise ValueError("keep_scored keeps scored sets, and none is scored: use --set evaluate_every=N or drop it")


def _whitened(config: "DistillConfig") -> None:
    if config.formation.factor > 1:
        raise ValueError(
            f"formation.factor {config.formation.factor} cuts up pictures, and zca makes none; "
            "use --set data.preprocessing=normalise, or --set formation.factor=1"
        )
    if config.space == "pixels":
        raise ValueError(
            "space = pixels: zca mixes pixels, which cannot be kept in [0, 1] then; use --set space=network, "
            "or --set data.preprocessing=normalise"
        )


def _expert_labels(config: "DistillConfig") -> None:
    if config.lr.labels:
        raise ValueError(
            f"lr.labels = {config.lr.labels:g}, but labels = expert are never learned; use --set lr.labels=0"
        )
    if config.formation.factor > 1:
        raise ValueError(
            f"labels = expert are one an image, and formation.factor {config.formation.factor} puts several into one; "
            "use --set formation.factor=1"
        )


def method_rules(config: "DistillConfig") -> None:
    """Refuse what contradicts the method, or each other, once the method's own values are set.

    Raises:
        ValueError: Naming the settings and the remedy.
    """
    own_rules(config)
    _convexified(config)
    _expert_left_out(config)
    check_labels(config)
    _statistics(config)
    _shards(config)


def _shards(config: "DistillConfig") -> None:
    if config.shards > 1 and config.match == "trajectories" and config.backprop == "full":
        raise ValueError(
            f"shards = {config.shards}: backprop = full keeps the graph of all student steps in one process; use "
            "--set backprop=adjoint, which has the same gradient, or --shards 1"
        )
    if config.shards > 1 and config.match == "statistics" and config.statistic.each_class and config.gate:
        raise ValueError(
            f"shards = {config.shards}: with statistic.each_class and gate = {config.gate:g} the steps of earlier "
            "classes decide where later ones start; drop gate, or use --shards 1"
        )


def _convexified(config: "DistillConfig") -> None:
    used = {
        "waypoints": config.waypoints,
        "window.continuous": config.window.continuous,
        "experts.kept": config.experts.kept is not None,
    }
    for name in (name for name, value in used.items() if value and not config.convexify):
        raise ValueError(f"{name} is for convexified trajectories; use --method mct, --set convexify=true, or drop it")


def _expert_left_out(config: "DistillConfig") -> None:
    setting = "window.auto" if config.window.auto else "probe_every" if config.probe_every else None
    if setting and config.match != "trajectories":
        raise ValueError(f"{setting} measures matched trajectories, and method {config.method} matches none; drop it")
    if setting and config.experts.num_experts < 2:
        raise ValueError(f"{setting} needs an expert that takes no part, and there is one; use --num-experts 2 or more")


def check_labels(config: "DistillConfig") -> None:
    """Refuse to learn labels that are classes, and soft labels for images that are several in one.

    Raises:
        ValueError: Naming both settings.
    """
    if config.labels == "expert":
        _expert_labels(config)
    if config.initial in SOFT_LABELS and config.formation.factor > 1:
        raise ValueError(
            f"initial = {config.initial} gives labels one an image, and formation.factor {config.formation.factor} "
            "puts several into one; use --set formation.factor=1, or --set initial=real --set lr.labels=0"
        )
    if config.lr.labels and config.initial not in SOFT_LABELS:
        raise ValueError(
            f"lr.labels = {config.lr.labels:g}, but the labels of initial = {config.initial} are classes, which "
            "cannot be learned; use --set initial=correctly_classified, or --set lr.labels=0"
        )


def _statistics(config: "DistillConfig") -> None:
    name, kept = config.method, config.experts.kept
    if config.match == "nothing" and config.steps:
        raise ValueError(
            f"steps = {config.steps}, but {name} selects images and learns nothing; drop it, or start a "
            f"method that learns from them: --method dm --set initial={config.initial}"
        )
    if config.match != "statistics":
        return
    if config.lr.lr:
        raise ValueError(
            f"lr.lr = {config.lr.lr:g}, but method {name} has no students whose learning rate could be learned; "
            "use --set lr.lr=0"
        )
    if config.lr.labels:
        raise ValueError(f"lr.labels = {config.lr.labels:g}, but method {name} learns no labels; use 0")
    if config.statistic.networks == "experts" and kept is not None:
        raise ValueError(
            f"experts.kept = {list(kept)} keeps few snapshots, and method {name} looks through all; drop it"
        )
    check_distance(config)


def check_distance(config: "DistillConfig") -> None:
    """Refuse a distance of something else than the statistic: of a gradient's mean, or of angles of features.

    Raises:
        ValueError: Naming both settings and what fits.
    """
    chosen = config.statistic
    if config.match == "statistics" and chosen.distance not in FITS[chosen.of]:
        raise ValueError(
            f"statistic.distance = {chosen.distance} does not compare statistic.of = {chosen.of}; "
            f"use --set statistic.distance={FITS[chosen.of][0]}"
        )
