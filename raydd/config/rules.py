"""Rules between the settings of a distillation that need neither data nor experts.

`OWN_RULES` hold whatever a method sets, and the schema checks them; `METHOD_RULES` are of a configuration that has its
method's own values.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from raydd.config.schema import DistillConfig

_SEGMENTS = (
    *("rollouts", "labels", "window", "pruning", "intermediate", "balance", "perturbation", "convexify", "waypoints"),
)
FOREIGN: dict[str, tuple[str, ...]] = {
    "trajectories": ("statistic", "unrolled", "kernel"),
    "statistics": (*_SEGMENTS, "unrolled", "kernel"),
    "loss": ("statistic", "kernel", *_SEGMENTS, "probe_every", "shards"),
    "kernel": ("statistic", "unrolled", *_SEGMENTS, "probe_every", "shards"),
    "nothing": (
        *("statistic", "unrolled", "kernel", *_SEGMENTS),
        *("gate", "ema", "probe_every", "shards", "precision", "compile"),
    ),
}
"""By what is matched: the settings that mean nothing there."""

FITS: dict[str, tuple[str, ...]] = {
    "features": ("means", "gaussian", "covariances", "characteristic"),
    "layers": ("means", "gaussian", "covariances", "characteristic"),
    "unit_features": ("characteristic", "means", "gaussian", "covariances"),
    "attention": ("means", "gaussian"),
    "gradient": ("cosine", "squared"),
    "batch_norm": ("means",),
}
"""The distances that each statistic can be compared by."""

SOFT_LABELS = frozenset({"correctly_classified", "correctly_classified_mean", "real_soft", "rded"})
"""The starts with soft labels."""


class Rule(NamedTuple):
    """A contradiction between settings.

    Attributes:
        broken: Whether a configuration has the contradiction.
        message: What is said of it; ``{lr.labels}`` stands for the value of that setting.
    """

    broken: Callable[["DistillConfig"], object]
    message: str


_CONVEXIFIED = "is for convexified trajectories; use --method mct, --set convexify=true, or drop it"

OWN_RULES = (
    Rule(
        lambda c: c.experts.kept is not None and c.waypoints not in ((), c.experts.kept),
        "waypoints {waypoints} and experts.kept {experts.kept} differ; give both the same epochs",
    ),
    Rule(
        lambda c: c.formation.decode == "bounded" and c.formation.bound < c.ipc,
        "formation.bound {formation.bound} is less than ipc {ipc}, so that images would be left out; "
        "use --set formation.bound={ipc} or more",
    ),
    Rule(
        lambda c: c.data.preprocessing == "zca" and c.formation.factor > 1,
        "formation.factor {formation.factor} cuts up pictures, and zca makes none; "
        "use --set data.preprocessing=normalise, or --set formation.factor=1",
    ),
    Rule(
        lambda c: c.data.preprocessing == "zca" and c.space == "pixels",
        "space = pixels: zca mixes pixels, which cannot be kept in [0, 1] then; use --set space=network, "
        "or --set data.preprocessing=normalise",
    ),
    Rule(
        lambda c: c.labels == "expert" and c.lr.labels,
        "lr.labels = {lr.labels:g}, but labels = expert are never learned; use --set lr.labels=0",
    ),
    Rule(
        lambda c: c.labels == "expert" and c.formation.factor > 1,
        "labels = expert are one an image, and formation.factor {formation.factor} puts several into one; "
        "use --set formation.factor=1",
    ),
    Rule(
        lambda c: c.formation.styles and c.formation.factor > 1,
        "formation.styles = {formation.styles} shows whole images, and formation.factor = {formation.factor} cuts them "
        "up; use --set formation.factor=1, or --set formation.styles=0",
    ),
    Rule(
        lambda c: c.labels == "expert" and c.formation.styles,
        "labels = expert are one an image, and formation.styles = {formation.styles} shows an image in several styles; "
        "use --set labels=own, or --set formation.styles=0",
    ),
)

METHOD_RULES = (
    Rule(
        lambda c: c.match == "loss" and (c.unrolled.window or 0) + c.unrolled.radius > c.student_steps,
        "unrolled.window {unrolled.window} and unrolled.radius {unrolled.radius} make more than student_steps = "
        "{student_steps}; use fewer, or --set student_steps with more",
    ),
    Rule(
        lambda c: c.match == "loss" and c.unrolled.radius >= (c.unrolled.window or c.student_steps),
        "unrolled.radius = {unrolled.radius} leaves nothing of a window of {unrolled.window}; use less",
    ),
    Rule(
        lambda c: c.compile and (c.statistic.of == "batch_norm" or (c.match == "kernel" and c.kernel.of == "tangent")),
        "compile = true: method {method} has no steps of networks that could be compiled; drop it",
    ),
    Rule(
        lambda c: c.precision == "bfloat16" and c.match == "kernel" and c.kernel.of == "tangent",
        "precision = bfloat16: the kernel of method {method} is of no network, and in float64; drop it",
    ),
    Rule(lambda c: c.waypoints and not c.convexify, f"waypoints {_CONVEXIFIED}"),
    Rule(lambda c: c.window.continuous and not c.convexify, f"window.continuous {_CONVEXIFIED}"),
    Rule(lambda c: c.experts.kept is not None and not c.convexify, f"experts.kept {_CONVEXIFIED}"),
    Rule(
        lambda c: c.initial in SOFT_LABELS and c.formation.factor > 1,
        "initial = {initial} gives labels one an image, and formation.factor {formation.factor} puts several into one; "
        "use --set formation.factor=1, or --set initial=real --set lr.labels=0",
    ),
    Rule(
        lambda c: c.lr.labels and c.initial not in SOFT_LABELS and c.match != "kernel",
        "lr.labels = {lr.labels:g}, but the labels of initial = {initial} are classes, which cannot be learned; "
        "use --set initial=correctly_classified, or --set lr.labels=0",
    ),
    Rule(
        lambda c: c.lr.labels and c.match == "kernel" and c.formation.factor > 1 and c.formation.decode == "bounded",
        "formation.decode = bounded shows a class's images by its labels, which lr.labels = {lr.labels:g} changes; use "
        "--set formation.decode=uniform, or --set lr.labels=0",
    ),
    Rule(
        lambda c: c.label_epoch is not None and c.initial not in SOFT_LABELS,
        "label_epoch = {label_epoch} is of soft labels, and initial = {initial} has none; "
        "use --set initial=correctly_classified, or drop it",
    ),
    Rule(
        lambda c: c.label_epoch is not None and c.label_epoch > c.experts.epochs,
        "label_epoch = {label_epoch}, but experts have {experts.epochs} epochs; use --set label_epoch={experts.epochs} "
        "or less",
    ),
    Rule(
        lambda c: c.match == "nothing" and c.steps,
        "steps = {steps}, but {method} selects images and learns nothing; drop it, or start a method that learns from "
        "them: --method dm --set initial={initial}",
    ),
    Rule(
        lambda c: c.match in ("statistics", "kernel") and c.lr.lr,
        "lr.lr = {lr.lr:g}, but method {method} has no students whose learning rate could be learned; "
        "use --set lr.lr=0",
    ),
    Rule(
        lambda c: c.match == "statistics" and c.lr.labels,
        "lr.labels = {lr.labels:g}, but method {method} learns no labels; use 0",
    ),
    Rule(
        lambda c: c.match == "statistics" and c.statistic.networks == "experts" and c.experts.kept is not None,
        "experts.kept = {experts.kept} keeps few snapshots, and method {method} looks through all; drop it",
    ),
    Rule(
        lambda c: (
            (c.match == "statistics" or c.statistic.beside)
            and (c.statistic.of == "batch_norm") != (c.method == "sre2l")
        ),
        "statistic.of = {statistic.of} and method {method} do not go together: batch_norm is what sre2l matches",
    ),
    Rule(
        lambda c: c.match != "trajectories" and c.statistic.beside,
        "statistic.beside = {statistic.beside:g} adds statistics to trajectories, and method {method} matches {match}; "
        "drop it, or use a method such as mtt",
    ),
    Rule(
        lambda c: c.statistic.beside and (c.rollouts > 1 or c.shards > 1),
        "statistic.beside = {statistic.beside:g} is a sum of losses, which is not divided among workers; "
        "use --rollouts 1 and --shards 1",
    ),
    Rule(
        lambda c: c.formation.contrast and c.formation.styles < 2,
        "formation.contrast = {formation.contrast:g} compares two styles, and formation.styles = {formation.styles}; "
        "use --set formation.styles=2 or more, or --set formation.contrast=0",
    ),
    Rule(
        lambda c: c.formation.contrast and c.match != "trajectories",
        "formation.contrast = {formation.contrast:g} is added to trajectories, and method {method} matches {match}; "
        "use --set formation.contrast=0",
    ),
    Rule(
        lambda c: c.formation.contrast and (c.rollouts > 1 or c.shards > 1),
        "formation.contrast = {formation.contrast:g} adds a loss, and a sum is not divided among workers; "
        "use --rollouts 1 and --shards 1, or --set formation.contrast=0",
    ),
    Rule(
        lambda c: c.formation.styles and (c.match == "nothing" or c.statistic.of == "batch_norm"),
        "formation.styles = {formation.styles} are learned, and method {method} learns none; "
        "use --set formation.styles=0, or a method such as haba",
    ),
    Rule(
        lambda c: c.formation.styles and c.match == "statistics" and c.shards > 1,
        "shards = {shards}: groups of classes share the styles of formation.styles = {formation.styles}; "
        "use --shards 1, or --set formation.styles=0",
    ),
    Rule(
        lambda c: c.match == "statistics" and c.statistic.history and c.shards > 1,
        "shards = {shards}: statistic.history = {statistic.history:g} carries means from step to step, which shards do "
        "not; use --shards 1",
    ),
    Rule(
        lambda c: c.match == "statistics" and c.statistic.cluster_every and c.shards > 1,
        "shards = {shards}: statistic.cluster_every = {statistic.cluster_every} carries a choice from step to step, "
        "which shards do not; use --shards 1",
    ),
    Rule(
        lambda c: c.match == "statistics" and c.statistic.history and c.statistic.of == "gradient",
        "statistic.history = {statistic.history:g} is of features; use --set statistic.of=features",
    ),
    Rule(
        lambda c: c.match == "statistics" and c.statistic.judge == "last" and c.statistic.networks != "experts",
        "statistic.judge = last is the last snapshot of an expert, and statistic.networks = {statistic.networks} shows "
        "none; use --set statistic.networks=experts, or --set statistic.judge=own",
    ),
    Rule(
        lambda c: c.shards > 1 and c.match == "trajectories" and c.backprop == "full",
        "shards = {shards}: backprop = full keeps the graph of all student steps in one process; use --set "
        "backprop=adjoint, which has the same gradient, or --shards 1",
    ),
    Rule(
        lambda c: c.shards > 1 and c.match == "statistics" and c.statistic.each_class and c.gate,
        "shards = {shards}: with statistic.each_class and gate = {gate:g} the steps of earlier classes decide where "
        "later ones start; drop gate, or use --shards 1",
    ),
)


def unread(key: str, match: str) -> bool:
    """Return whether a setting means nothing to methods that match this.

    >>> unread("pruning.rate", "statistics"), unread("pruning.rate", "trajectories")
    (True, False)
    """
    if key == "statistic.beside":  # it is what adds the others to trajectories
        return match != "trajectories"
    return key.partition(".")[0] in FOREIGN[match]


def own_rules(config: "DistillConfig") -> None:
    """Refuse settings that contradict each other whatever the method is; the message names them and the remedy."""
    _window(config)
    _check(OWN_RULES, config)
    check_scores(config, config.data.validation)


def method_rules(config: "DistillConfig") -> None:
    """Refuse what contradicts the method, or each other, once the method's own values are set."""
    own_rules(config)
    _check(METHOD_RULES, config)
    _expert_left_out(config)
    chosen = config.statistic
    if (config.match == "statistics" or chosen.beside) and chosen.distance not in FITS[chosen.of]:
        raise ValueError(
            f"statistic.distance = {chosen.distance} does not compare statistic.of = {chosen.of}; "
            f"use --set statistic.distance={FITS[chosen.of][0]}"
        )


def _check(rules: tuple[Rule, ...], config: "DistillConfig") -> None:
    for rule in rules:
        if rule.broken(config):
            raise ValueError(rule.message.format_map(dict(config)))


def _window(config: "DistillConfig") -> None:
    low, current, high = config.window.low, config.window.current, config.window.high
    if config.window.auto or high is None:  # T+ is then found, or fitted to the experts
        return
    if current is not None and not low <= current <= high:
        raise ValueError(f"window {low}, {current}, {high}: T- <= T <= T+ must hold; set window.low, .current, .high")
    if low > high:
        raise ValueError(f"window ({low}, {high}) holds no epoch; use T- <= T+, for example --window 0:{high}")


def check_scores(config: "DistillConfig", held_out: float, share: float = 0.1) -> None:
    """Refuse scores on a validation split of no images (their number or share), and kept sets where none is scored."""
    if config.evaluate_every is not None and not held_out:
        raise ValueError(
            f"evaluate_every = {config.evaluate_every} needs a validation split, and with "
            f"data.validation={config.data.validation:g} there is none; use --set data.validation={share:g}, or drop "
            "evaluate_every: the result is then the last step"
        )
    if config.keep_scored and config.evaluate_every is None:
        raise ValueError("keep_scored keeps scored sets, and none is scored: use --set evaluate_every=N or drop it")


def _expert_left_out(config: "DistillConfig") -> None:
    setting = "window.auto" if config.window.auto else "probe_every" if config.probe_every else None
    if setting and config.match != "trajectories":
        raise ValueError(f"{setting} measures matched trajectories, and method {config.method} matches none; drop it")
    if setting and config.experts.num_experts < 2:
        raise ValueError(f"{setting} needs an expert that takes no part, and there is one; use --num-experts 2 or more")
