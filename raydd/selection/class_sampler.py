"""Real images by class, and the experts that selections use.

Shapes: `n` images, `K` classes, `C H W` image, `F` features, `T` snapshots of an expert.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.buffer.expert_model import ExpertModel, expert_model
from raydd.buffer.segments import TrajectorySource
from raydd.data.datasets import Dataset
from raydd.data.preprocessing import Transform
from raydd.numerics.flat import FlatModel

_BATCH = 512


@dataclass(frozen=True, eq=False)
class Experts:
    """Trained networks that a selection applies to real images, after their last epoch unless another is given.

    They run in evaluation mode, so that results do not depend on the batch.
    """

    model: FlatModel
    source: TrajectorySource
    device: torch.device
    clusters: int | None = None  # clusters per class for the representative start; None takes one an image

    def pick(self, rng: torch.Generator) -> int:
        """Return one of the experts, at random."""
        return self.source.experts[int(torch.randint(len(self.source.experts), (), generator=rng))]

    def logits(self, expert: int, images: Tensor, epoch: int | None = None) -> Tensor:
        """Return logits (n, K) of preprocessed images after an epoch, None being the last; on the CPU."""
        return self._apply(ExpertModel.logits, expert, images, epoch)

    def features(self, expert: int, images: Tensor) -> Tensor:
        """Return features (n, F) of preprocessed images before the last layer, on the CPU."""
        return self._apply(ExpertModel.features, expert, images)

    def correct(self, expert: int, images: Tensor, label: int) -> Tensor:
        """Return whether an expert classified images as ``label``, before its first epoch and after each: (T, n)."""
        images = images.to(self.device)  # once for all epochs
        epochs = range(self.source.epochs + 1)
        return torch.stack([self.logits(expert, images, epoch).argmax(dim=1) == label for epoch in epochs])

    @torch.no_grad()
    def _apply(
        self, of: Callable[[ExpertModel, Tensor], Tensor], expert: int, images: Tensor, epoch: int | None = None
    ) -> Tensor:
        model = expert_model(self.model, self.source, expert, self.source.epochs if epoch is None else epoch)
        model = model.to(self.device)
        return torch.cat([of(model, part.to(self.device)).cpu() for part in images.split(_BATCH)])


Start = Callable[[Dataset, Transform, int, torch.Generator, Experts | None], tuple[Tensor, Tensor]]
"""(dataset, transform, ipc, rng, experts) -> preprocessed images (K ipc, C, H, W) and their labels, in class order.

Labels are classes (K ipc,), or logits (K ipc, K). ValueError is raised where a class has fewer than ``ipc`` training
images, and where experts are needed and missing.
"""


def require_experts(experts: Experts | None, start: str) -> Experts:
    """Return the experts, for a start that needs them; raise ValueError without."""
    if experts is None:
        raise ValueError(
            f"{start} asks trained networks about the images, and there are none; "
            "give experts with --buffer, or choose images by real, kmeans, herding or kcenter"
        )
    return experts


def real(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """Draw images from each class of the training split without replacement; see `Start`."""
    chosen = torch.cat([rows[:ipc] for rows in shuffled_classes(dataset, ipc, rng)])
    return transform(dataset.train.take(chosen)), dataset.train.targets[chosen]


def shuffled_classes(dataset: Dataset, ipc: int, rng: torch.Generator) -> list[Tensor]:
    """Return the training rows of each class, in random order; refuse classes of fewer than ``ipc`` images."""
    targets, classes = dataset.train.targets, []
    for label, name in enumerate(dataset.classes):
        members = torch.nonzero(targets == label).flatten()
        if len(members) < ipc:
            raise ValueError(
                f"ipc {ipc} is larger than class {name!r} of {dataset.name}, which has {len(members)} training images; "
                f"use --ipc {len(members)} or less"
            )
        classes.append(members[torch.randperm(len(members), generator=rng)])
    return classes


def in_class_order(dataset: Dataset, ipc: int) -> Tensor:
    """Return the classes (K ipc,) of ``ipc`` images each."""
    return torch.arange(len(dataset.classes)).repeat_interleave(ipc)
