"""The shape that all networks of the zoo share: features, then one linear layer.

Shapes: `B` batch, `C H W` image, `F` features, `K` classes.
"""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from raydd.models.group_norm import group_norm

Norm = Callable[[int], nn.Module]
"""Builds a normalisation layer of this many channels."""


class GroupNorm(nn.GroupNorm):
    """PyTorch's group norm, whose second derivative is `raydd.models.group_norm`'s."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) normalised."""
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def instance_norm(width: int) -> nn.Module:
    """Return an instance norm of ``width`` channels with scale and shift, without running statistics."""
    return GroupNorm(width, width)


class Classifier(nn.Module):
    """A body that computes features, and a linear layer that computes logits.

    Args:
        body: Maps images (B, C, H, W) to (B, ...) with ``width`` numbers an image.
        width: Features of an image, F.
        classes: Number of logits, K.

    >>> import torch
    >>> network = Classifier(nn.Conv2d(3, 2, 5), 2 * 4 * 4, classes=10)
    >>> network.features(torch.ones(6, 3, 8, 8)).shape, network(torch.ones(6, 3, 8, 8)).shape
    (torch.Size([6, 32]), torch.Size([6, 10]))
    """

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.classifier = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return features (B, F) of images x (B, C, H, W), the input of the linear layer."""
        return cast(Tensor, self.body(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images x (B, C, H, W)."""
        return cast(Tensor, self.classifier(self.features(x)))


def padded(size: int) -> int:
    """Return the side that the first convolution sees: 28 is padded to 32, so that networks for 32x32 take MNIST."""
    return 32 if size == 28 else size


def stem_padding(size: int, kernel: int) -> int:
    """Return the padding of a first convolution that keeps the side, and takes 28 pixels to 32.

    >>> stem_padding(32, 3), stem_padding(28, 3), stem_padding(28, 5)
    (1, 3, 4)
    """
    return (kernel - 1 + padded(size) - size) // 2
