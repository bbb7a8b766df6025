"""The batches of a student's steps on a synthetic set.

Shapes: `N` synthetic images, `C H W` image, `K` classes.
"""

import torch
from torch import Tensor

from raydd.numerics.augment import Augment
from raydd.numerics.rng import moved
from raydd.numerics.unroll import Batch


def student_batches(
    images: Tensor, labels: Tensor, steps: int, batch_size: int | None, augment: Augment, rng: torch.Generator
) -> list[Batch]:
    """Return the batches of a student's steps, each with a view of its own.

    Args:
        images: (N, C, H, W), as networks see them.
        labels: (N,) classes, or (N, K) probabilities.
        steps: How many.
        batch_size: Images of each; None takes all. Every image is drawn once before any is drawn again.
        augment: What the views are drawn from.
        rng: Of all draws.
    """
    count = len(images)
    size = min(batch_size or count, count)
    batches, rows = [], torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if size == count:
            x, y = images, labels
        else:
            if not len(rows):
                rows = torch.randperm(count, generator=rng)
            chosen, rows = moved(rows[:size], images.device), rows[size:]
            x, y = images[chosen], labels[chosen]
        batches.append(Batch(x, y, augment.draw(x.shape, rng)))
    return batches
