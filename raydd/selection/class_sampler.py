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
    label_epoch: int | None = None  # epoch after which logits are given; None is the last

    def pick(self, rng: torch.Generator) -> int:
        """Return one of the experts, at random."""
        return self.source.experts[int(torch.randint(len(self.source.experts), (), generator=rng))]

    def logits(self, expert: int, images: Tensor, epoch: int | None = None) -> Tensor:
        """Return logits (n, K) of preprocessed images after an epoch, None being ``label_epoch``; on the CPU."""
        return self._apply(ExpertModel.logits, expert, images, self.label_epoch if epoch is None else epoch)

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


@dataclass(frozen=True, eq=False)
class Request:
    """A request for ``ipc`` images of each class, made of or chosen among a data set's training images."""

    dataset: Dataset
    transform: Transform
    ipc: int
    rng: torch.Generator
    experts: Experts | None = None

    @property
    def labels(self) -> Tensor:
        """The classes (K ipc,) of the images, in class order."""
        return torch.arange(len(self.dataset.classes)).repeat_interleave(self.ipc)

    def classes(self) -> list[Tensor]:
        """Return the training rows of each class, in random order; refuse classes of fewer than ``ipc`` images."""
        targets, classes = self.dataset.train.targets, []
        for label, name in enumerate(self.dataset.classes):
            members = torch.nonzero(targets == label).flatten()
            if len(members) < self.ipc:
                raise ValueError(
                    f"ipc {self.ipc} is larger than class {name!r} of {self.dataset.name}, which has {len(members)} "
                    f"training images; use --ipc {len(members)} or less"
                )
            classes.append(members[torch.randperm(len(members), generator=self.rng)])
        return classes

    def images(self, rows: Tensor) -> Tensor:
        """Return preprocessed training images."""
        return self.transform(self.dataset.train.take(rows))

    def require_experts(self, start: str) -> Experts:
        """Return the experts, for a start that needs them; raise ValueError without."""
        if self.experts is None:
            raise ValueError(
                f"{start} asks trained networks about the images, and there are none; "
                "give experts with --buffer, or choose images by real, kmeans, herding or kcenter"
            )
        return self.experts


Start = Callable[[Request], tuple[Tensor, Tensor]]
"""Answers a request: preprocessed images (K ipc, C, H, W) and their labels, in class order.

Labels are classes (K ipc,), or logits (K ipc, K). ValueError is raised where a class has fewer than ``ipc`` training
images, and where experts are needed and missing.
"""


def real(request: Request) -> tuple[Tensor, Tensor]:
    """Draw images from each class of the training split without replacement; see `Start`."""
    return request.images(torch.cat([rows[: request.ipc] for rows in request.classes()])), request.labels
