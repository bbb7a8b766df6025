"""Where synthetic images start.

Shapes: `N` images, `K` classes, `C H W` image.
"""

import torch
from torch import Tensor

from raydd.data.datasets import Dataset
from raydd.data.transform import Transform


def real(dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images drawn from the training split without repetition, class by class.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """
    targets = dataset.train.targets
    rows = []
    for label, name in enumerate(dataset.classes):
        members = torch.nonzero(targets == label).flatten()
        if len(members) < ipc:
            raise ValueError(
                f"ipc {ipc} is larger than class {name!r} of {dataset.name}, which has {len(members)} training images; "
                f"use --ipc {len(members)} or less"
            )
        rows.append(members[torch.randperm(len(members), generator=rng)[:ipc]])
    chosen = torch.cat(rows)
    return transform(dataset.train.take(chosen)), targets[chosen]


def noise(dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Standard normal images (K ipc, C, H, W) in the preprocessed space, and classes (K ipc,)."""
    count = len(dataset.classes) * ipc
    images = torch.randn((count, dataset.channels, dataset.size, dataset.size), generator=rng)
    return images, torch.arange(len(dataset.classes)).repeat_interleave(ipc)


INITIAL = {"real": real, "noise": noise}
