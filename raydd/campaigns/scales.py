"""Sizes at which a plan can be run: as published, or with smaller budgets that a small machine can work off."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from raydd.config.parsing import Tree, flat, nested
from raydd.config.schema import DistillConfig
from raydd.data.named_sets import SUBSETS

TRAIN = {
    "digits": 1437,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "svhn": 73_257,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "tiny_imagenet": 100_000,
    **dict.fromkeys(SUBSETS, 13_000),
}
"""Training images by data set."""
_AT_MOST = {
    "all": ("steps", "experts.num_experts"),
    "trajectories": ("student_steps", "batch_size"),
    "statistics": ("statistic.batch_real", "statistic.queue_steps"),
    "loss": ("student_steps", "batch_size", "unrolled.batch_real"),
    "kernel": ("kernel.batch_real", "kernel.renew"),
    "nothing": (),
}


class Scale(NamedTuple):
    """A size of a campaign.

    Attributes:
        name: Its name, as ``--scale`` takes it.
        dataset: The data set in place of those of the plan; "" keeps them.
        most: Largest values of settings, by dotted name; ``ipc`` and ``experts.epochs`` among them.
        networks: Networks in place of those of the plan.
        evaluation: Settings of the evaluation over the plan's.
        ranking: Settings of a ranking of architectures over the plan's.
        seeds: Most networks trained a score.
    """

    name: str
    dataset: str = ""
    most: Mapping[str, int] = MappingProxyType({})
    networks: Mapping[str, str] = MappingProxyType({})
    evaluation: Mapping[str, Any] = MappingProxyType({})
    ranking: Mapping[str, Any] = MappingProxyType({})
    seeds: int = 1000


_SMALL = {
    "ConvNet": "ConvNetW32",
    "ConvNetBN": "ConvNetW32BN",
    "ConvNetD4": "ConvNetW32D4",
    "ConvNetD5": "ConvNetW32D5",
    "ResNet10": "ResNet10W16",
    "ResNet18": "ResNet18W16",
    "ResNet18BN": "ResNet18BNW16",
    "VGG11": "VGG11W16",
    "AlexNet": "AlexNetW32",
    "DenseNet121": "DenseNet121W8",
}
SCALES = {
    scale.name: scale
    for scale in (
        Scale("paper"),
        Scale(
            "cpu",
            most={
                "ipc": 50,
                "steps": 60,
                "student_steps": 20,
                "batch_size": 128,
                "experts.num_experts": 4,
                "experts.epochs": 12,
                "statistic.batch_real": 64,
                "statistic.queue_steps": 3,
                "unrolled.batch_real": 256,
                "kernel.batch_real": 512,
                "kernel.renew": 20,
            },
            networks=_SMALL,
            evaluation={"epochs": 100, "real_epochs": 3},
            ranking={"sample": 6, "epochs": 30, "real_epochs": 1},
            seeds=2,
        ),
        Scale(
            "digits",
            dataset="digits",
            most={
                "ipc": 50,
                "steps": 40,
                "student_steps": 20,
                "batch_size": 64,
                "experts.num_experts": 4,
                "experts.epochs": 50,
                "statistic.batch_real": 64,
                "statistic.queue_steps": 3,
                "unrolled.batch_real": 256,
                "kernel.batch_real": 512,
                "kernel.renew": 20,
            },
            networks=_SMALL | {"ConvNetD4": "ConvNetW32", "ConvNetD5": "ConvNetW32"},
            evaluation={"epochs": 100, "real_epochs": 10},
            ranking={"sample": 24, "epochs": 30, "real_epochs": 5},
            seeds=2,
        ),
    )
}


def find_scale(name: str) -> Scale:
    """Return a scale by name."""
    if name not in SCALES:
        raise ValueError(f"--scale {name!r} is unknown; use one of {', '.join(SCALES)}")
    return SCALES[name]


def shrink(config: DistillConfig, scale: Scale) -> Tree:
    """Return the settings that a complete configuration takes at a scale; {} where it is as published.

    Epochs of the experts shrink with everything that counts in them, and steps with their intervals. Of the steps of a
    student those count that the gradient goes through: with a window of them, all shrink as it does.

    >>> from raydd.methods import complete
    >>> shrink(complete(DistillConfig(method="mct", waypoints=(6, 25))), SCALES["cpu"])["waypoints"]
    [1, 6]
    """
    values, tree = flat(config.model_dump(mode="json")), dict[str, Any]()
    if not scale.most:
        return {}
    for key in (*_AT_MOST["all"], *_AT_MOST[config.match]):
        if values[key] is None or values[key] > scale.most[key]:
            tree[key] = scale.most[key]
    tree["experts.network"] = scale.networks.get(config.experts.network, config.experts.network)
    tree["ipc"] = min(config.ipc, scale.most["ipc"])
    part = min(1.0, scale.most["experts.epochs"] / config.experts.epochs)
    if part < 1:
        tree |= _fewer_epochs(config, part)
    if config.match == "loss" and config.unrolled.window:
        window = min(config.unrolled.window, scale.most["student_steps"])
        radius, steps = (
            number * window // config.unrolled.window for number in (config.unrolled.radius, config.student_steps)
        )
        tree |= {"unrolled.window": window, "unrolled.radius": radius, "student_steps": steps}
    if config.statistic.refresh > 1 and config.match == "statistics":
        tree["statistic.refresh"] = max(1, min(config.statistic.refresh, scale.most["steps"] // 4))
    return nested(tree)


def fewer_steps(config: DistillConfig, steps: int) -> Tree:
    """Return the settings that count a run's outer steps, for one of fewer than a configuration has; {} for no fewer.

    Those that count the steps of a network's life, such as ``statistic.refresh``, are none of them.

    >>> from raydd.methods import complete
    >>> fewer_steps(complete(DistillConfig(method="dsdm", steps=10000)), 100)
    {'statistic': {'history_from': 20}}
    """
    if steps >= config.steps:
        return {}
    part, tree = steps / config.steps, dict[str, Any]()
    if config.window.interval > 1 and config.match == "trajectories":
        tree["window.interval"] = max(1, round(config.window.interval * part))
    if config.statistic.history and (config.match == "statistics" or config.statistic.beside):
        tree["statistic.history_from"] = round(config.statistic.history_from * part)
    if config.lr.patience is not None:
        tree["lr.patience"] = max(1, round(config.lr.patience * part))
    if config.ema is not None and steps:
        tree["ema"] = config.ema ** (1 / part)  # the mean is of the same part of the run
    return nested(tree)


def _fewer_epochs(config: DistillConfig, part: float) -> Tree:
    """Return the settings that count epochs of experts, for experts of a ``part`` of the epochs."""

    def fewer(epoch: int, least: int = 0) -> int:
        return max(least, round(epoch * part))

    epochs = fewer(config.experts.epochs, 2)
    tree: Tree = {"experts.epochs": epochs}
    tree["experts.milestones"] = [epoch for epoch in dict.fromkeys(map(fewer, config.experts.milestones)) if epoch > 0]
    if config.experts.kept is not None:
        tree["experts.kept"] = _inner(map(fewer, config.experts.kept), epochs)
    if config.label_epoch is not None:
        tree["label_epoch"] = fewer(config.label_epoch, 1)
    if config.match == "statistics":
        tree["statistic.region"] = min(config.statistic.region, epochs)
    if config.match != "trajectories":
        return tree
    span = min(config.span, max(1, epochs // 3))
    waypoints = _inner(map(fewer, config.waypoints), epochs)
    high = min(fewer(config.window.high, 1) if config.window.high is not None else epochs, epochs - span)
    low = min(fewer(config.window.low), high)
    tree |= {"span": span, "waypoints": waypoints, "window.low": low, "window.high": high}
    if config.window.current is not None:
        tree["window.current"] = min(max(fewer(config.window.current), low), high)
    return tree


def _inner(counted: Iterable[int], epochs: int) -> list[int]:
    """Return the epochs that are neither the first nor the last, each once."""
    return [epoch for epoch in dict.fromkeys(counted) if 0 < epoch < epochs]
