"""Real images chosen to stand for a whole class.

Shapes: `K` classes, `C H W` image, `D = C H W` pixels.
"""

import torch
from torch import Tensor

from raydd.data.clusters import centres, nearest
from raydd.data.datasets import Dataset
from raydd.data.initial import real
from raydd.data.transform import Transform


def kmeans(dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each class the training images nearest to the centres of ``ipc`` clusters of its pixels.

    Clusters are of preprocessed pixels (n, D). No image is chosen twice: where centres share their nearest
    one, the closest has it.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """
    images, labels = real(dataset, transform, ipc, rng)  # checks that every class is large enough
    targets = dataset.train.targets
    for label in range(len(dataset.classes)):
        members = transform(dataset.train.take(torch.nonzero(targets == label).flatten()))
        pixels = members.flatten(1)
        chosen = nearest(centres(pixels, ipc, rng), pixels)
        images[label * ipc : (label + 1) * ipc] = members[chosen]
    return images, labels


CORESETS = {"random": real, "kmeans": kmeans}
"""Selections of real images by name: (dataset, transform, ipc, rng) -> images, classes."""
