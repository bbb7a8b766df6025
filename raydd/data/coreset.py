"""Real images chosen to stand for a whole class.

Shapes: `K` classes, `C H W` image, `D = C H W` pixels.
"""

import torch
from torch import Tensor

from raydd.data.datasets import Dataset
from raydd.data.initial import real
from raydd.data.transform import Transform


def kmeans(dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each class the training images nearest to the centres of ``ipc`` clusters of its pixels.

    Clusters are found by scikit-learn's KMeans on preprocessed pixels (n, D), started by k-means++. No
    image is chosen twice: where centres share their nearest one, the closest has it.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """
    from sklearn.cluster import KMeans

    images, labels = real(dataset, transform, ipc, rng)  # checks that every class is large enough
    targets = dataset.train.targets
    for label in range(len(dataset.classes)):
        members = transform(dataset.train.take(torch.nonzero(targets == label).flatten()))
        pixels = members.flatten(1).double()
        seed = int(torch.randint(2**31, (), generator=rng))
        centres = KMeans(ipc, n_init=1, random_state=seed).fit(pixels.numpy()).cluster_centers_
        nearest = _nearest(torch.from_numpy(centres), pixels)
        images[label * ipc : (label + 1) * ipc] = members[nearest]
    return images, labels


def _nearest(centres: Tensor, pixels: Tensor) -> Tensor:
    """A row of ``pixels`` (n, D) for each centre (m, D), m <= n: no row twice, the closest pairs first."""
    distances = torch.cdist(centres, pixels, compute_mode="donot_use_mm_for_euclid_dist")
    chosen = torch.empty(len(centres), dtype=torch.int64)
    for _ in centres:
        centre, row = divmod(int(distances.argmin()), len(pixels))
        chosen[centre] = row
        distances[centre], distances[:, row] = torch.inf, torch.inf
    return chosen


CORESETS = {"random": real, "kmeans": kmeans}
"""Selections of real images by name: (dataset, transform, ipc, rng) -> images, classes."""
