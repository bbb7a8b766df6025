"""Trajectory matching put together: every part that the settings switch on.

Shapes: `N` synthetic images, `K` classes, `P` parameters.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from raydd.buffer.convexified import Convexified
from raydd.buffer.expert_model import ExpertModel, expert_model, statistics_of
from raydd.buffer.segments import Segment
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace
from raydd.distillation.probe import Probe
from raydd.distillation.recipe import Finish, Recipe, Setup, initial, leaves, unchanged
from raydd.distillation.trajectory_objective import (
    Labels,
    TrajectoryMatching,
    Weight,
    own_labels,
    undisturbed,
    unweighted,
)
from raydd.numerics.distances import Distance, along, at_end, pruned
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import balance, cross_entropy
from raydd.numerics.perturbation import perturb
from raydd.numerics.rng import generator
from raydd.numerics.unroll import Inner
from raydd.numerics.windows import growing

AT_ONCE = 512  # images


def matching(setup: Setup) -> Recipe:
    """Trajectory matching with every part that the settings switch on.

    Raises:
        ValueError: The experts cannot serve the window, or the labels cannot be learned.
    """
    config, source = setup.config, setup.experts
    last = source.epochs
    if config.convexify:
        source = Convexified(source, config.waypoints, config.window.continuous)
        setup = setup._replace(source=source)
    window = growing(*start_window(config, last), config.window.interval)
    source.segment(window(config.steps), config.span, generator(config.seed, "check"))
    labels, finish = LABELS[config.labels](setup)
    objective = TrajectoryMatching(
        source=source,
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
    return Recipe(
        objective, initial(setup), leaves(config, setup.work.transform), config.gate, config.ema, finish, probe
    )


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


def labels_from_expert(setup: Setup) -> Labels:
    """Soft labels (N, K): what the expert says of the images at the segment's end, in evaluation mode.

    They change with the images, and that counts in the gradient: held constant, the loss rises where labels
    are soft (digits, 1 image a class).
    """
    source, span, model = setup.experts, setup.config.span, FlatModel(setup.work.build)

    def say(expert: ExpertModel, images: Tensor) -> Tensor:
        return torch.softmax(expert.logits(images), dim=1)

    def labels(synset: SyntheticSet, segment: Segment) -> Tensor:
        statistics = statistics_of(source, model.statistics_layout, segment.expert, segment.epoch + span)
        expert = ExpertModel(model, segment.target, statistics).to(segment.target)
        parts = synset.images.split(AT_ONCE)  # each is computed again in the backward sweep: no graph is kept
        said = [checkpoint(say, expert, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        return torch.cat(said)

    return labels


def label_by_experts(setup: Setup) -> Finish:
    """Gives a set the labels that all experts together give its images after their last epoch.

    Probabilities are averaged over the experts, and kept as their logarithms.
    """
    source, model = setup.experts, FlatModel(setup.work.build)

    @torch.no_grad()
    def finish(synset: SyntheticSet) -> SyntheticSet:
        asked = (expert_model(model, source, expert, source.epochs).to(synset.images) for expert in source.experts)
        said = torch.stack([_log_probabilities(expert, synset.images) for expert in asked])
        return synset.with_leaves({"labels": torch.logsumexp(said, dim=0) - math.log(len(said))})

    return finish


def _log_probabilities(expert: ExpertModel, images: Tensor) -> Tensor:
    return torch.cat([torch.log_softmax(expert.logits(part), dim=1) for part in images.split(AT_ONCE)])


LABELS: dict[str, Callable[[Setup], tuple[Labels, Finish]]] = {
    "own": lambda setup: (own_labels, unchanged),
    "expert": lambda setup: (labels_from_expert(setup), label_by_experts(setup)),
}
"""The labels that students train on, and what they become in the end, by the name of ``config.labels``."""
