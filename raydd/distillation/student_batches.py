"""The batches of a student's steps on a synthetic set.

Shapes: `N` synthetic images, `S` styles, `C H W` image, `K` classes.
"""

import torch
from torch import Tensor

from raydd.numerics.augment import Augment
from raydd.numerics.rng import moved
from raydd.numerics.unroll import Batch


def student_batches(
    images: Tensor,
    labels: Tensor,
    steps: int,
    batch_size: int | None,
    augment: Augment,
    rng: torch.Generator,
    styles: int = 0,
) -> list[Batch]:
    """Return the batches of a student's steps, each with a view of its own.

    Args:
        images: (N, C, H, W), as networks see them; with styles (N S, C, H, W), those of a base after one another.
        labels: (N,) classes, or (N, K) probabilities.
        steps: How many.
        batch_size: Images of each; None takes all. Every image is drawn once before any is drawn again.
        augment: What the views are drawn from.
        rng: Of all draws.
        styles: S: all bases of a step are in one style, drawn anew; 0 where images have none.
    """
    count = len(images) // max(1, styles)
    size = min(batch_size or count, count)
    batches, rows = [], torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if size == count and not styles:
            x, y = images, labels
        else:
            if not len(rows):
                rows = torch.randperm(count, generator=rng)
            chosen, rows = rows[:size], rows[size:]
            if styles:
                chosen = chosen * styles + torch.randint(styles, (), generator=rng)
            chosen = moved(chosen, images.device)
            x, y = images[chosen], labels[chosen]
        batches.append(Batch(x, y, augment.draw(x.shape, rng)))
    return batches
