"""A stored expert as a classifier of images.

Shapes: `P` parameters, `Q` running statistics, `B` batch, `C H W` image, `K` classes, `F` features.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raydd.buffer.segments import TrajectorySource
from raydd.numerics.flat import FlatModel, Layout


@dataclass(frozen=True, eq=False)
class ExpertModel:
    """A trained network after one epoch, in evaluation mode: batch norm takes the running statistics.

    Its output for an image does not depend on the other images of the batch.

    Attributes:
        model: The network.
        theta: Its parameters (P,).
        statistics: Its running statistics (Q,); empty without batch norm.
    """

    model: FlatModel
    theta: Tensor
    statistics: Tensor

    def to(self, like: Tensor | torch.device) -> "ExpertModel":
        """Return the model on the device, and in the dtype, of ``like``."""
        return replace(self, theta=self.theta.to(like), statistics=self.statistics.to(like))

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of preprocessed images (B, C, H, W)."""
        return self.model(self.theta, images, self.statistics)

    def features(self, images: Tensor) -> Tensor:
        """Return flattened features (B, F) of preprocessed images (B, C, H, W) before the last layer."""
        return self.model.features(self.theta, images, self.statistics)


def expert_model(model: FlatModel, source: TrajectorySource, expert: int, epoch: int) -> ExpertModel:
    """Return an expert after an epoch."""
    statistics = statistics_of(source, model.statistics_layout, expert, epoch)
    return ExpertModel(model, source.snapshot(expert, epoch), statistics)


def statistics_of(source: TrajectorySource, layout: Layout, expert: int, epoch: float) -> Tensor:
    """Return the running statistics (Q,) of an expert after an epoch; none are read if the layout has none."""
    wanted = sum(slot.numel for slot in layout)
    statistics = source.running_stats(expert, epoch) if wanted else torch.zeros(0)
    if statistics.shape != (wanted,):
        raise ValueError(
            f"the experts hold {statistics.numel()} running statistics and their network's batch norm has {wanted}, so "
            "they cannot be asked about images; train them with `raydd experts`, or import checkpoints that hold them"
        )
    return statistics
