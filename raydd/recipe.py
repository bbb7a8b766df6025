"""What a method is given, what it makes of it, and the parts that methods are put together from.

Shapes: `N` synthetic images, `K` classes, `P` parameters.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from raydd.config import DistillConfig
from raydd.data.convexified import Convexified
from raydd.data.initial import INITIAL, SOFT, Experts
from raydd.data.synset import SyntheticSet
from raydd.data.trajectory import Segment, TrajectorySource
from raydd.distill.loop import Leaf, Objective
from raydd.distill.trajectory import Labels, TrajectoryMatching, Weight, own_labels, undisturbed, unweighted
from raydd.numerics.distances import Distance, along, at_end, pruned
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import balance, cross_entropy
from raydd.numerics.perturbation import perturb
from raydd.numerics.rng import generator
from raydd.numerics.unroll import Inner
from raydd.numerics.windows import growing
from raydd.probe import Probe
from raydd.workspace import Workspace

AT_ONCE = 512  # images
Finish = Callable[[SyntheticSet], SyntheticSet]


class Setup(NamedTuple):
    """What a method is given.

    Attributes:
        config: The run's settings.
        work: Data set, preprocessing, network, device.
        source: The experts' trajectories.
    """

    config: DistillConfig
    work: Workspace
    source: TrajectorySource


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


def matching(setup: Setup) -> Recipe:
    """Trajectory matching with every part that the settings switch on.

    Raises:
        ValueError: The experts cannot serve the window, or the labels cannot be learned.
    """
    config, last = setup.config, setup.source.epochs
    if config.convexify:
        setup = setup._replace(source=Convexified(setup.source, config.waypoints, config.window.continuous))
    window = growing(*start_window(config, last), config.window.interval)
    setup.source.segment(window(config.steps), config.span, generator(config.seed, "check"))
    labels, finish = LABELS[config.labels](setup)
    objective = TrajectoryMatching(
        source=setup.source,
        inner=classification(setup.work),
        window=window,
        span=config.span,
        student_steps=config.student_steps,
        batch_size=config.batch_size,
        augment=setup.work.augment,
        labels=labels,
        distance=distance(config),
        backprop=config.backprop,
        between=config.intermediate != "none",
        disturb=partial(perturb, FlatModel(setup.work.build).layout, config.perturbation)
        if config.perturbation
        else undisturbed,
        weight=balanced(config, last),
    )
    probe = partial(Probe, objective, seed=config.seed)
    return Recipe(objective, initial(setup), leaves(config), config.gate, config.ema, finish, probe)


def classification(work: Workspace) -> Inner:
    """The student's loss: mean cross-entropy of the network at theta."""
    model = FlatModel(work.build)

    def inner(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(theta, x), y)

    return inner


def start_window(config: DistillConfig, epochs: int) -> tuple[int, int, int]:
    """T-, T and T+ as configured; T+ is else the last epoch that leaves room for a segment, T is else T+."""
    window = config.window
    high = epochs - config.span if window.high is None else window.high
    return window.low, high if window.current is None else window.current, high


def distance(config: DistillConfig) -> Distance:
    """At the end of the segment, or along it too; without the pruned parameters."""
    closeness = pruned(config.pruning.rate, config.pruning.metric)
    return at_end(closeness) if config.intermediate == "none" else along(closeness, config.intermediate)


def balanced(config: DistillConfig, epochs: int) -> Weight:
    """The factor of the student's loss by start epoch, about the middle of 0 to T+ (AST Eq. 20)."""
    if config.balance is None:
        return unweighted
    middle = start_window(config, epochs)[-1] / 2
    return partial(balance, middle=middle, offset=config.balance)


def initial(setup: Setup) -> SyntheticSet:
    """The set at outer step 0: images and labels as ``config.initial`` says, and the students' first step size."""
    config, work = setup.config, setup.work
    experts = Experts(FlatModel(work.build), setup.source, work.device, config.clusters)
    rng = generator(config.seed, "initial")
    images, labels = INITIAL[config.initial](work.dataset, work.transform, config.ipc, rng, experts)
    return SyntheticSet(
        images=images,
        labels=labels,
        lr=torch.tensor(config.lr.start),
        transform=work.transform,
        dataset=work.dataset.name,
        classes=work.dataset.classes,
    ).to(work.device)


def check_labels(config: DistillConfig) -> None:
    """Refuse to learn labels that are classes.

    Raises:
        ValueError: Naming both settings.
    """
    if config.lr.labels and config.labels != "own":
        raise ValueError(
            f"lr.labels = {config.lr.labels:g}, but labels = expert are never learned; use --set lr.labels=0"
        )
    if config.lr.labels and config.initial not in SOFT:
        raise ValueError(
            f"lr.labels = {config.lr.labels:g}, but the labels of initial = {config.initial} are classes, which "
            "cannot be learned; use --set initial=correctly_classified, or --set lr.labels=0"
        )


def leaves(config: DistillConfig) -> dict[str, Leaf]:
    """Images, and labels and the students' step size unless their own step size is 0, by SGD with momentum."""
    check_labels(config)
    sizes = config.lr
    learned = {"images": Leaf(sizes.images, sizes.momentum)}
    if sizes.labels:
        learned["labels"] = Leaf(sizes.labels, sizes.labels_momentum)
    if sizes.lr:
        learned["lr"] = Leaf(sizes.lr, sizes.momentum)
    return learned


def labels_from_expert(work: Workspace) -> Labels:
    """Soft labels (N, K): what the expert says of the images at the segment's end.

    They change with the images, and that counts in the gradient: held constant, the loss rises where labels
    are soft (digits, 1 image a class).
    """
    model = FlatModel(work.build)

    def say(theta: Tensor, images: Tensor) -> Tensor:
        return torch.softmax(model(theta, images), dim=1)

    def labels(synset: SyntheticSet, segment: Segment) -> Tensor:
        parts = synset.images.split(AT_ONCE)  # each is computed again in the backward sweep: no graph is kept
        said = [checkpoint(say, segment.target, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(said)

    return labels


def label_by_experts(setup: Setup) -> Finish:
    """Gives a set the labels that all experts together give its images after their last epoch.

    Probabilities are averaged over the experts, and kept as their logarithms.
    """
    source, model = setup.source, FlatModel(setup.work.build)

    @torch.no_grad()
    def finish(synset: SyntheticSet) -> SyntheticSet:
        thetas = (source.snapshot(expert, source.epochs).to(synset.images) for expert in source.experts)
        said = torch.stack([_log_probabilities(model, theta, synset.images) for theta in thetas])
        return synset.with_leaves({"labels": torch.logsumexp(said, dim=0) - math.log(len(said))})

    return finish


def _log_probabilities(model: FlatModel, theta: Tensor, images: Tensor) -> Tensor:
    return torch.cat([torch.log_softmax(model(theta, part), dim=1) for part in images.split(AT_ONCE)])


LABELS: dict[str, Callable[[Setup], tuple[Labels, Finish]]] = {
    "own": lambda setup: (own_labels, unchanged),
    "expert": lambda setup: (labels_from_expert(setup.work), label_by_experts(setup)),
}
"""The labels that students train on, and what they become in the end, by the name of ``config.labels``."""
