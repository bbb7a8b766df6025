"""What a method is given, what it makes of it, and what all methods share: the start, and what is learned.

Shapes: `N` synthetic images, `K` classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydd.buffer.expert_model import statistics_of
from raydd.buffer.segments import TrajectorySource
from raydd.config.rules import check_labels
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace
from raydd.distillation.loop import Leaf, pixel_leaf
from raydd.distillation.objective import Objective
from raydd.distillation.probe import Probe
from raydd.numerics.flat import FlatModel
from raydd.numerics.formation import Formation, encode
from raydd.numerics.rng import generator
from raydd.selection.starting_images import ASKS_EXPERTS, CHOOSES, INITIAL, Experts

Finish = Callable[[SyntheticSet], SyntheticSet]


class Setup(NamedTuple):
    """What a method is given.

    Attributes:
        config: The run's settings.
        work: Data set, preprocessing, network, device.
        source: The experts' trajectories; None where the settings need none.
        start: The set at outer step 0, where it is known already; None makes it.
    """

    config: DistillConfig
    work: Workspace
    source: TrajectorySource | None
    start: SyntheticSet | None = None

    @property
    def experts(self) -> TrajectorySource:
        """The experts' trajectories, for what cannot do without.

        Raises:
            ValueError: If there are none.
        """
        if self.source is None:
            raise ValueError(f"method {self.config.method} needs experts; train them with raydd experts")
        return self.source


def unchanged(synset: SyntheticSet) -> SyntheticSet:
    """The learned set as it stands."""
    return synset


class Recipe(NamedTuple):
    """What a method makes of it: all that the loop needs.

    Attributes:
        objective: What the synthetic set must match.
        synset: Where it starts.
        learn: Which of images, labels and lr are learned, and how.
        gate: Step only when the loss is at most this.
        ema: Decay of the running mean of the images that is the result.
        finish: Makes of the learned set the one that is scored and saved.
        probe: Makes what measures the matching loss on an expert, by number, that takes no part; None for
            methods that match no trajectories.
    """

    objective: Objective[Any]
    synset: SyntheticSet
    learn: dict[str, Leaf]
    gate: float | None = None
    ema: float | None = None
    finish: Finish = unchanged
    probe: Callable[[int], Probe] | None = None


def initial(setup: Setup) -> SyntheticSet:
    """The set at outer step 0: images and labels as ``config.initial`` says, and the students' first step size."""
    config, work = setup.config, setup.work
    if setup.start is not None:
        return setup.start.to(work.device)
    rng, tiles = generator(config.seed, "initial"), tiles_of(config)
    start = INITIAL[config.initial]
    images, labels = start(work.dataset, work.transform, config.ipc * tiles, rng, asked(setup))
    return SyntheticSet(
        images=encode(images, config.formation.factor) if tiles > 1 else images,
        labels=labels[::tiles],
        formation=Formation(**config.formation.model_dump()),
        lr=torch.tensor(config.lr.start),
        transform=work.transform,
        dataset=work.dataset.name,
        classes=work.dataset.classes,
    ).to(work.device)


def tiles_of(config: DistillConfig) -> int:
    """Images of the training set that one image starts from: a mosaic's tiles; noise is no picture to be cut up."""
    return 1 if config.initial == "noise" else config.formation.factor**2


def asked(setup: Setup) -> Experts | None:
    """The experts that a start asks about real images; None where there are none, or pixels shall count."""
    config, work = setup.config, setup.work
    if setup.source is None or (config.select_by == "pixels" and config.initial not in ASKS_EXPERTS):
        return None
    return Experts(FlatModel(work.build), setup.source, work.device, config.clusters)


def asks(config: DistillConfig) -> bool:
    """Whether a run asks experts about images, where it has any: for its start, or for labels."""
    by_features = config.initial in CHOOSES and config.select_by == "features"
    return config.labels == "expert" or config.initial in ASKS_EXPERTS or by_features


def check_network(config: DistillConfig, model: FlatModel, source: TrajectorySource | None = None) -> None:
    """Refuse networks with batch norm where it has no right statistics.

    Args:
        config: The run's settings.
        model: Its network.
        source: The experts, where they are there already.

    Raises:
        ValueError: The method passes one class a batch through the network in training mode; convexified experts are
            asked between the epochs that they keep; or experts that are asked hold no running statistics.
    """
    name = config.experts.network
    other = name.replace("BN", "") if "BN" in name and ":" not in name else "ConvNet"
    remedy = f"use a network with instance or group norm, such as --network {other}"
    if model.batch_norm and config.match == "statistics":
        raise ValueError(
            f"{name} has batch norm, and method {config.method} shows it one class a batch, whose statistics are not "
            f"those of all images; {remedy}"
        )
    if not (model.batch_norm and asks(config)):
        return
    if config.convexify and config.labels == "expert":
        raise ValueError(
            f"labels = expert asks convexified experts between the epochs that they keep, where {name} has no running "
            f"statistics for its batch norm; use --set labels=own, or {remedy.removeprefix('use ')}"
        )
    if not model.tracks:
        raise ValueError(
            f"{name} has batch norm without running statistics, so it cannot be asked about images; {remedy}"
        )
    if source is not None:
        statistics_of(source, model.statistics_layout, source.experts[0], 0)


def leaves(config: DistillConfig, transform: Transform) -> dict[str, Leaf]:
    """Images, and labels and the students' step size unless their own step size is 0, by SGD with momentum."""
    check_labels(config)
    sizes = config.lr
    make = partial(pixel_leaf, transform=transform) if config.space == "pixels" else Leaf
    learned = {"images": make(sizes.images, sizes.momentum)}
    if sizes.labels:
        learned["labels"] = Leaf(sizes.labels, sizes.labels_momentum)
    if sizes.lr:
        learned["lr"] = Leaf(sizes.lr, sizes.momentum)
    return learned


class Nothing:
    """What a selection matches: it has no step to take."""

    parts, joint = 1, False

    def init(self, rng: torch.Generator) -> None:
        """Nothing is carried from step to step."""

    def loss(
        self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, None]:
        """No loss is defined.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a selection learns nothing; use --set steps=0, or a method that learns")


def selection(setup: Setup) -> Recipe:
    """Images of the training set as they are, chosen by ``config.initial``; nothing is learned."""
    return Recipe(Nothing(), initial(setup), {})
