"""What a method is given and what it returns; the start and the learned parts, which all methods share.

Shapes: `N` synthetic images, `K` classes.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from raydd.buffer.expert_model import statistics_of
from raydd.buffer.segments import TrajectorySource
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace
from raydd.distillation.leaves import Leaf, pixel_leaf
from raydd.distillation.network_pool import centred
from raydd.distillation.objective import Objective
from raydd.numerics.compiled import check_compiler
from raydd.numerics.flat import FlatModel
from raydd.numerics.formation import Formation, encode
from raydd.numerics.rng import generator
from raydd.numerics.styles import start_styles
from raydd.selection.class_sampler import Experts, Request
from raydd.selection.starting_images import INITIAL, MEASURE_DISTANCES, NEED_EXPERTS

if TYPE_CHECKING:
    from raydd.distillation.held_out import Probe

Finish = Callable[[SyntheticSet], SyntheticSet]


class Setup(NamedTuple):
    """What a method is given.

    Attributes:
        config: The run's settings, complete and checked.
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
        """The experts' trajectories, for methods that need them.

        Raises:
            ValueError: There are none.
        """
        if self.source is None:
            raise ValueError(f"method {self.config.method} needs experts; train them with raydd experts")
        return self.source

    def model(self) -> FlatModel:
        """Return the network that images are learned with.

        Raises:
            ValueError: The settings want it compiled, and there is no compiler.
        """
        if self.config.compile:
            check_compiler(self.work.device)
        return FlatModel(self.work.build, self.config.compile, DTYPES.get(self.config.precision))


DTYPES = {"bfloat16": torch.bfloat16}
"""What a network's products take, by ``config.precision``; the others change no format."""


def unchanged(synset: SyntheticSet) -> SyntheticSet:
    """Return the learned set as it is."""
    return synset


class Recipe(NamedTuple):
    """What a method returns: all that the loop needs.

    Attributes:
        objective: What the synthetic set must match.
        synset: Where it starts.
        learn: Which of images, labels, lr and styles are learned, and how.
        gate: Step only when the loss is at most this.
        ema: Decay of the running mean that is the result; see `raydd.distillation.loop.Distillation`.
        finish: Makes the set that is scored and saved from the learned one.
        probe: Makes the probe of a held-out expert, by its number; None for methods that match no trajectories.
    """

    objective: Objective[Any]
    synset: SyntheticSet
    learn: dict[str, Leaf]
    gate: float | None = None
    ema: float | None = None
    finish: Finish = unchanged
    probe: "Callable[[int], Probe] | None" = None


def initial(setup: Setup) -> SyntheticSet:
    """Return the set at outer step 0: images and labels by ``config.initial``, styles, the students' learning rate.

    A kernel that learns labels learns them as targets of its regression, from those of real images; of features, as in
    FRePo's code, over the root of a tenth of the classes.
    """
    config, work = setup.config, setup.work
    if setup.start is not None:
        return setup.start.to(work.device)
    rng, tiles = generator(config.seed, "initial"), tiles_of(config)
    request = Request(work.dataset, work.transform, config.ipc * tiles, rng, experts_to_ask(setup))
    images, labels = INITIAL[config.initial](request)
    formed = Formation(**config.formation.model_dump(exclude={"contrast"}))
    rng = generator(config.seed, "styles")
    synset = SyntheticSet(
        images=encode(images, config.formation.factor) if tiles > 1 else images,
        labels=labels[::tiles],
        formation=formed,
        styles=start_styles(formed.styles, images.shape[1:], rng) if formed.styles else None,
        lr=torch.tensor(config.lr.start),
        transform=work.transform,
        dataset=work.dataset.name,
        classes=work.dataset.classes,
    ).to(work.device)
    if config.match == "kernel" and config.lr.labels:
        classes = len(synset.classes)
        scale = math.sqrt(classes / 10) if config.kernel.of == "features" else 1.0
        return replace(synset, labels=centred(synset.targets, classes) / scale, regression=True)
    return synset


def tiles_of(config: DistillConfig) -> int:
    """Return how many real images one synthetic image starts from: a mosaic's tiles; noise is not cut up."""
    return 1 if config.initial == "noise" else config.formation.factor**2


def experts_to_ask(setup: Setup) -> Experts | None:
    """Return the experts that a start asks about real images; None without experts, or where pixels are compared."""
    config, work = setup.config, setup.work
    if setup.source is None or (config.select_by == "pixels" and config.initial not in NEED_EXPERTS):
        return None
    return Experts(FlatModel(work.build), setup.source, work.device, config.clusters, config.label_epoch)


def asks_experts(config: DistillConfig) -> bool:
    """Whether a run asks experts about images: for its start, or for labels."""
    by_features = config.initial in MEASURE_DISTANCES and config.select_by == "features"
    inverted = config.match == "statistics" and config.statistic.of == "batch_norm"
    return config.labels == "expert" or config.initial in NEED_EXPERTS or by_features or inverted


def check_network(config: DistillConfig, model: FlatModel) -> None:
    """Refuse networks with batch norm where it has no right statistics, and those without where it is matched."""
    name, inverted = config.experts.network, config.match == "statistics" and config.statistic.of == "batch_norm"
    if inverted and not model.batch_norm:
        raise ValueError(
            f"method {config.method} matches the statistics of batch norm, and {name} has none; use a network with it, "
            "such as --network ConvNetBN"
        )
    other = name.replace("BN", "") if "BN" in name and ":" not in name else "ConvNet"
    remedy = f"use a network with instance or group norm, such as --network {other}"
    one_class = config.match == "statistics" and not inverted
    if model.batch_norm and (one_class or config.statistic.beside):
        what = f"method {config.method}" if one_class else f"statistic.beside = {config.statistic.beside:g}"
        raise ValueError(
            f"{name} has batch norm, and {what} shows it one class a batch, whose statistics are not "
            f"those of all images; {remedy}"
        )
    if model.batch_norm and config.shards > 1:
        raise ValueError(
            f"shards = {config.shards}: {name} has batch norm, by which the images of a batch depend on each other; "
            f"use --shards 1, or {remedy.removeprefix('use ')}"
        )
    if not (model.batch_norm and asks_experts(config)):
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


def check_statistics(config: DistillConfig, model: FlatModel, source: TrajectorySource) -> None:
    """Refuse experts that are asked about images and hold no running statistics for their batch norm."""
    if model.batch_norm and asks_experts(config):
        statistics_of(source, model.statistics_layout, source.experts[0], 0)


def leaves(config: DistillConfig, transform: Transform) -> dict[str, Leaf]:
    """Return how each learned part is learned: images, and labels, lr and styles unless their learning rate is 0."""
    rates = config.lr
    make = partial(pixel_leaf, transform=transform) if config.space == "pixels" else Leaf
    learned = {"images": make(rates.images, rates.momentum)}
    if rates.labels:
        learned["labels"] = Leaf(rates.labels, rates.labels_momentum)
    if rates.lr:
        learned["lr"] = Leaf(rates.lr, rates.momentum)
    if config.formation.styles and (rate := rates.images if rates.styles is None else rates.styles):
        learned["styles"] = Leaf(rate, rates.styles_momentum)
    return {name: leaf._replace(optimizer=rates.optimizer, patience=rates.patience) for name, leaf in learned.items()}


class Nothing:
    """The objective of a selection, which takes no step."""

    parts, joint = 1, False

    def init(self, rng: torch.Generator) -> None:
        """Carry no state."""

    def loss(
        self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, None]:
        """Raise a ValueError: no loss is defined."""
        raise ValueError("a selection learns nothing; use --set steps=0, or a method that learns")


def select_images(setup: Setup) -> Recipe:
    """Return the recipe of a selection: real images chosen by ``config.initial``; nothing is learned."""
    return Recipe(Nothing(), initial(setup), {})
