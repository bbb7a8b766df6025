"""Real images by class, and the trained networks that are asked about them.

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
    """Trained networks that a start asks about real images, each after its last epoch where no other is named.

    They are asked in evaluation mode, so that the answer does not depend on which images are asked about together.

    Attributes:
        model: The network.
        source: The experts' trajectories.
        device: Where they compute.
        clusters: Clusters a class for the representative start; None takes one an image.
    """

    model: FlatModel
    source: TrajectorySource
    device: torch.device
    clusters: int | None = None

    def pick(self, rng: torch.Generator) -> int:
        """One of the experts, at random."""
        return self.source.experts[int(torch.randint(len(self.source.experts), (), generator=rng))]

    def logits(self, expert: int, images: Tensor, epoch: int | None = None) -> Tensor:
        """What an expert says of preprocessed images after an epoch, None being the last: (n, K) on the CPU."""
        return self._ask(ExpertModel.logits, expert, images, epoch)

    def features(self, expert: int, images: Tensor) -> Tensor:
        """What an expert sees in preprocessed images before its last layer: (n, F) on the CPU."""
        return self._ask(ExpertModel.features, expert, images)

    def right(self, expert: int, images: Tensor, label: int) -> Tensor:
        """Whether an expert took preprocessed images for ``label`` before its first epoch and after each: (T, n)."""
        images = images.to(self.device)  # once, and not again for every epoch
        epochs = range(self.source.epochs + 1)
        return torch.stack([self.logits(expert, images, epoch).argmax(dim=1) == label for epoch in epochs])

    @torch.no_grad()
    def _ask(
        self, of: Callable[[ExpertModel, Tensor], Tensor], expert: int, images: Tensor, epoch: int | None = None
    ) -> Tensor:
        asked = expert_model(self.model, self.source, expert, self.source.epochs if epoch is None else epoch)
        asked = asked.to(self.device)
        return torch.cat([of(asked, part.to(self.device)).cpu() for part in images.split(_BATCH)])


Start = Callable[[Dataset, Transform, int, torch.Generator, Experts | None], tuple[Tensor, Tensor]]
"""(dataset, transform, ipc, rng, experts) -> images (K ipc, C, H, W), preprocessed, and labels, in class order.

Labels are classes (K ipc,), or logits (K ipc, K).
"""


def needed(experts: Experts | None, start: str) -> Experts:
    """The experts, for a start that cannot do without.

    Raises:
        ValueError: If there are none.
    """
    if experts is None:
        raise ValueError(
            f"{start} asks trained networks about the images, and there are none; "
            "give experts with --buffer, or choose images by real, kmeans, herding or kcenter"
        )
    return experts


def real(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """Images drawn from the training split without repetition, class by class.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """
    chosen = torch.cat([rows[:ipc] for rows in shuffled_classes(dataset, ipc, rng)])
    return transform(dataset.train.take(chosen)), dataset.train.targets[chosen]


def shuffled_classes(dataset: Dataset, ipc: int, rng: torch.Generator) -> list[Tensor]:
    """The training rows of each class, in random order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """
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
    """The classes (K ipc,) of ``ipc`` images each."""
    return torch.arange(len(dataset.classes)).repeat_interleave(ipc)
