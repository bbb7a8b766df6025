"""Trajectory matching: students of the synthetic set shall move as experts of the real one do.

Shapes: `N` synthetic images, `P` parameters, `S` student steps, `M` expert span in epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.data.trajectory import Segment, TrajectorySource
from raydd.numerics.augment import Augment
from raydd.numerics.distances import Distance, normalized_mse
from raydd.numerics.unroll import Backprop, Batch, Inner, unroll
from raydd.numerics.windows import Window

Labels = Callable[[SyntheticSet, Segment], Tensor]


def own_labels(synset: SyntheticSet, segment: Segment) -> Tensor:
    """The synthetic set's labels: (N,) classes, or (N, K) probabilities."""
    return synset.targets


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

    def init(self, rng: torch.Generator) -> None:
        """Trajectory matching carries no state from step to step."""

    def loss(self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator) -> tuple[Tensor, None]:
        """The distance at one random segment, a scalar; all draws come from ``rng``."""
        images = synset.images
        segment = self.source.segment(self.window(step), self.span, rng).to(images)
        batches = self._batches(images, self.labels(synset, segment), rng)
        path = unroll(self.inner, segment.start, batches, synset.lr, self.backprop)
        return self.distance(path, segment), state

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
