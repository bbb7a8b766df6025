"""Trajectory matching: students on the synthetic set move as experts on the real one do.

Shapes: `N` synthetic images, `K` classes, `P` parameters, `S` student steps, `M` expert span in epochs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from raydd.buffer.convexified import Convexified
from raydd.buffer.expert_model import ExpertModel, expert_model, statistics_of
from raydd.buffer.segments import Segment, TrajectorySource
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.distillation.batch_shards import batch_division
from raydd.distillation.held_out import Probe
from raydd.distillation.objective import Objective
from raydd.distillation.parts import Division
from raydd.distillation.setup import Finish, Recipe, Setup, initial, leaves, unchanged
from raydd.distillation.statistic_matching import match_statistics
from raydd.distillation.student_batches import student_batches
from raydd.distillation.style_contrast import contrast_styles
from raydd.distillation.weighted_sum import WeightedSum
from raydd.numerics.augment import Augment
from raydd.numerics.distances import Distance, along, at_end, normalized_mse, pruned
from raydd.numerics.flat import FlatModel, classification_loss
from raydd.numerics.losses import balance
from raydd.numerics.perturbation import perturb
from raydd.numerics.unroll import Backprop, Batch, Inner, StudentSteps, unroll
from raydd.numerics.windows import Window, growing

LABEL_BATCH = 512  # images that an expert labels at once
Labels = Callable[[SyntheticSet, Segment], Tensor]
Disturb = Callable[[Tensor, torch.Generator], Tensor]
Weight = Callable[[float], float]


def own_labels(synset: SyntheticSet, segment: Segment) -> Tensor:
    """Return the synthetic set's labels: (N,) classes, or (N, K) probabilities."""
    return synset.targets


class Student(NamedTuple):
    """A student and the batches that it trains on.

    Attributes:
        segment: The segment that it starts at and is compared with.
        inner: Its loss.
        batches: The batch of every step.
        lr: Its learning rate, a scalar.
    """

    segment: Segment
    inner: Inner
    batches: list[Batch]
    lr: Tensor


@dataclass(frozen=True)
class TrajectoryMatching:
    """The distance between where a student and an expert arrive from the same start.

    Attributes:
        source: Where segments of expert training come from.
        inner: The student's loss.
        window: Start epochs an outer step may draw.
        span: M, expert epochs a segment covers.
        student_steps: S, student steps in the same time.
        augment: Drawn afresh for every student step.
        batch_size: Synthetic images a student step; None takes all.
        labels: The labels that students train on.
        distance: Compares the student's path and the segment.
        backprop: How the path is differentiated.
        memory: Bytes for graphs of steps that need not be computed again, see `raydd.numerics.unroll.unroll`.
        between: Whether ``distance`` reads the expert's snapshots inside the segment.
        disturb: Changes the weights (P,) that student and expert start from; None keeps them.
        weight: The factor of the student's loss, by start epoch; None is 1.
        steps: Makes what computes the student's steps, of the synthetic set, the outer step and the seed of its draws;
            by default this process computes them, on whole batches.

    Reference:
        Cazenavette et al., arXiv 2203.11932, Algorithm 1.
    """

    parts: ClassVar[int] = 1
    joint: ClassVar[bool] = False
    source: TrajectorySource
    inner: Inner
    window: Window
    span: int
    student_steps: int
    augment: Augment
    batch_size: int | None = None
    labels: Labels = own_labels
    distance: Distance = normalized_mse
    backprop: Backprop = "adjoint"
    memory: float | None = None
    between: bool = False
    disturb: Disturb | None = None
    weight: Weight | None = None
    steps: Callable[[SyntheticSet, int, int], StudentSteps] | None = None

    def init(self, rng: torch.Generator) -> None:
        """Carry no state from step to step."""

    def loss(
        self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, None]:
        """Return the distance at one random segment, a scalar; all draws come from ``rng``."""
        steps = self.steps(synset, step, rng.initial_seed()) if self.steps else None
        return self.match(synset, self.draw(step, rng), rng, steps), state

    def divide(self, synset: SyntheticSet, seed: int, shards: int, rollouts: int = 1) -> Division:
        """Return the division of every student step into pieces of its batch."""
        return batch_division(self, synset, seed, shards, rollouts)

    def draw(self, step: int, rng: torch.Generator) -> Segment:
        """Return the segment of an outer step.

        Raises:
            ValueError: Its expert did not move, so that no distance can be measured.
        """
        segment = self.source.segment(self.window(step), self.span, rng, between=self.between)
        if torch.equal(segment.start, segment.target):  # before they are on a GPU, which would have to be waited for
            raise ValueError("the expert stands still between start and target; retrain it with a larger lr")
        return segment

    def match(
        self, synset: SyntheticSet, segment: Segment, rng: torch.Generator, steps: StudentSteps | None = None
    ) -> Tensor:
        """Return the distance at a given segment, a scalar; batches and views are drawn from ``rng``."""
        segment, inner, batches, lr = self.student(synset, segment, rng)
        path = unroll(inner, segment.start, batches, lr, self.backprop, steps, self.memory)
        return self.distance(path, segment)

    def student(self, synset: SyntheticSet, segment: Segment, rng: torch.Generator) -> Student:
        """Return the student of a segment; batches and views are drawn from ``rng``."""
        styles, synset, segment = synset.formation.styles, synset.decoded(), segment.to(synset.images)
        if self.disturb:
            segment = segment._replace(start=self.disturb(segment.start, rng))
        labels = self.labels(synset, segment)
        batches = student_batches(synset.images, labels, self.student_steps, self.batch_size, self.augment, rng, styles)
        weight = self.weight(segment.epoch) if self.weight else 1.0

        def weighted(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return weight * self.inner(theta, x, y)

        return Student(segment, self.inner if weight == 1 else weighted, batches, synset.lr)


def match_trajectories(setup: Setup) -> Recipe:
    """Return the recipe of trajectory matching with every part that the settings switch on.

    Raises:
        ValueError: There are no experts, or they keep other waypoints than the settings name.
    """
    config, source = setup.config, setup.experts
    last = source.epochs
    if config.convexify:
        source = Convexified(source, config.waypoints, config.window.continuous)
        setup = setup._replace(source=source)
    window = growing(*start_window(config, last), config.window.interval)
    labels, finish = LABELS[config.labels](setup)
    layout = FlatModel(setup.work.build).layout
    objective = TrajectoryMatching(
        source=source,
        inner=classification(setup.model()),
        window=window,
        span=config.span,
        student_steps=config.student_steps,
        batch_size=config.batch_size,
        augment=setup.work.augment,
        labels=labels,
        distance=distance(config),
        backprop=config.backprop,
        memory=config.memory,
        between=config.intermediate != "none",
        disturb=partial(perturb, layout, config.perturbation) if config.perturbation else None,
        weight=balanced(config, last),
    )
    learn = leaves(config, setup.work.transform)
    probe = partial(Probe, objective, seed=config.seed)
    return Recipe(_with_others(objective, setup), initial(setup), learn, config.gate, config.ema, finish, probe)


def _with_others(objective: TrajectoryMatching, setup: Setup) -> Objective[Any]:
    """Return the match, or its sum with the terms that have a weight: statistics, and the contrast of styles."""
    terms: list[tuple[Objective[Any], float]] = [(objective, 1.0)]
    if weight := setup.config.statistic.beside:
        terms.append((match_statistics(setup).objective, weight))
    if weight := setup.config.formation.contrast:
        terms.append((contrast_styles(setup), weight))
    return objective if len(terms) == 1 else WeightedSum(tuple(terms))


def classification(model: FlatModel) -> Inner:
    """Return the student's loss: the mean cross-entropy of the network at theta."""
    return partial(model.run, classification_loss, scalar=True)


def start_window(config: DistillConfig, epochs: int) -> tuple[int, int, int]:
    """Return T-, T and T+. T+ defaults to the last epoch that leaves room for a segment, T to T+."""
    window = config.window
    high = epochs - config.span if window.high is None else window.high
    return window.low, high if window.current is None else window.current, high


def distance(config: DistillConfig) -> Distance:
    """Return the distance at the end of the segment, or along it too, without the pruned parameters."""
    closeness = pruned(config.pruning.rate, config.pruning.metric)
    return at_end(closeness) if config.intermediate == "none" else along(closeness, config.intermediate)


def balanced(config: DistillConfig, epochs: int) -> Weight | None:
    """Return the factor of the student's loss by start epoch, about the middle of 0 to T+ (AST Eq. 20)."""
    if config.balance is None:
        return None
    middle = start_window(config, epochs)[-1] / 2
    return partial(balance, middle=middle, offset=config.balance)


def labels_from_expert(setup: Setup) -> Labels:
    """Return the labels (N, K) that the expert gives the images at the segment's end, in evaluation mode.

    They change with the images, and that counts in the gradient: with constant labels the loss rises (digits, 1 image a
    class).
    """
    source, span, model = setup.experts, setup.config.span, FlatModel(setup.work.build)

    def probabilities(expert: ExpertModel, images: Tensor) -> Tensor:
        return torch.softmax(expert.logits(images), dim=1)

    def labels(synset: SyntheticSet, segment: Segment) -> Tensor:
        statistics = statistics_of(source, model.statistics_layout, segment.expert, segment.epoch + span)
        expert = ExpertModel(model, segment.target, statistics).to(segment.target)
        parts = synset.images.split(LABEL_BATCH)  # each is computed again in the backward sweep: no graph is kept
        recomputed = partial(checkpoint, probabilities, expert, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([recomputed(part) for part in parts])

    return labels


def label_by_experts(setup: Setup) -> Finish:
    """Return what labels a set by all experts after their last epoch: the logarithm of their mean probabilities."""
    source, model = setup.experts, FlatModel(setup.work.build)

    @torch.no_grad()
    def finish(synset: SyntheticSet) -> SyntheticSet:
        experts = (expert_model(model, source, expert, source.epochs).to(synset.images) for expert in source.experts)
        logs = torch.stack([_log_probabilities(expert, synset.images) for expert in experts])
        return synset.with_leaves({"labels": torch.logsumexp(logs, dim=0) - math.log(len(logs))})

    return finish


def _log_probabilities(expert: ExpertModel, images: Tensor) -> Tensor:
    return torch.cat([torch.log_softmax(expert.logits(part), dim=1) for part in images.split(LABEL_BATCH)])


LABELS: dict[str, Callable[[Setup], tuple[Labels, Finish]]] = {
    "own": lambda setup: (own_labels, unchanged),
    "expert": lambda setup: (labels_from_expert(setup), label_by_experts(setup)),
}
"""The labels that students train on, and what they become in the end, by the name of ``config.labels``."""
