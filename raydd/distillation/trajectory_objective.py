"""Trajectory matching: students of the synthetic set shall move as experts of the real one do.

Shapes: `N` synthetic images, `P` parameters, `S` student steps, `M` expert span in epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.buffer.segments import Segment, TrajectorySource
from raydd.data.synset import SyntheticSet
from raydd.numerics.augment import Augment
from raydd.numerics.distances import Distance, normalized_mse
from raydd.numerics.unroll import Backprop, Batch, Inner, Path, unroll
from raydd.numerics.windows import Window

Labels = Callable[[SyntheticSet, Segment], Tensor]
Disturb = Callable[[Tensor, torch.Generator], Tensor]
Weight = Callable[[float], float]


def own_labels(synset: SyntheticSet, segment: Segment) -> Tensor:
    """The synthetic set's labels: (N,) classes, or (N, K) probabilities."""
    return synset.targets


def undisturbed(theta: Tensor, rng: torch.Generator) -> Tensor:
    """The starting weights as the expert had them."""
    return theta


def unweighted(epoch: float) -> float:
    """The student's loss as it is, whatever epoch it starts from."""
    return 1.0


@dataclass(frozen=True)
class TrajectoryMatching:
    """The distance between where a student and an expert arrive from the same start.

    Attributes:
        source: Where segments of expert training come from.
        inner: The student's loss.
        window: Start epochs an outer step may draw.
        span: M, expert epochs a segment covers.
        student_steps: S, student steps that shall cover the same ground.
        augment: Drawn afresh for every student step.
        batch_size: Synthetic images a student step; None takes all.
        labels: The labels that students train on.
        distance: Compares the student's path and the segment.
        backprop: How the path is differentiated.
        between: Whether ``distance`` reads the expert's snapshots inside the segment.
        disturb: Changes the weights (P,) that student and expert start from.
        weight: The factor of the student's loss, by start epoch.

    Reference:
        Cazenavette et al., arXiv 2203.11932, Algorithm 1.
    """

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
    between: bool = False
    disturb: Disturb = undisturbed
    weight: Weight = unweighted

    @property
    def parts(self) -> int:
        """One loss an outer step."""
        return 1

    @property
    def joint(self) -> bool:
        """There is nothing to sum."""
        return False

    def init(self, rng: torch.Generator) -> None:
        """Trajectory matching carries no state from step to step."""

    def loss(
        self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, None]:
        """The distance at one random segment, a scalar; all draws come from ``rng``."""
        segment = self.source.segment(self.window(step), self.span, rng, between=self.between)
        return self.match(synset, segment, rng), state

    def match(self, synset: SyntheticSet, segment: Segment, rng: torch.Generator) -> Tensor:
        """The distance at one given segment, a scalar; the draws of batches and views come from ``rng``."""
        synset, segment = synset.decoded(), segment.to(synset.images)
        segment = segment._replace(start=self.disturb(segment.start, rng))
        return self.distance(self._path(synset, segment, rng), segment)

    def _path(self, synset: SyntheticSet, segment: Segment, rng: torch.Generator) -> Path:
        batches = self._batches(synset.images, self.labels(synset, segment), rng)
        weight = self.weight(segment.epoch)

        def weighted(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return weight * self.inner(theta, x, y)

        inner = self.inner if weight == 1 else weighted
        return unroll(inner, segment.start, batches, synset.lr, self.backprop)

    def _batches(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> list[Batch]:
        count = len(images)
        size = min(self.batch_size or count, count)
        batches, rows = [], torch.empty(0, dtype=torch.int64)
        for _ in range(self.student_steps):
            if size == count:
                x, y = images, labels
            else:
                if not len(rows):
                    rows = torch.randperm(count, generator=rng)
                chosen, rows = rows[:size].to(images.device), rows[size:]
                x, y = images[chosen], labels[chosen]
            batches.append(Batch(x, y, self.augment.draw(x.shape, rng)))
        return batches
