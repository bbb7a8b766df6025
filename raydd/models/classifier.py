"""What every network of the zoo has in common: features, then one linear layer.

Shapes: `B` batch, `C H W` image, `F` features, `K` classes.
"""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

# Makes a normalisation layer for so many channels.
Norm = Callable[[int], nn.Module]


def instance_norm(width: int) -> nn.Module:
    """Instance norm with scale and shift, of ``width`` channels; it keeps no running statistics."""
    return nn.GroupNorm(width, width)


class Classifier(nn.Module):
    """A body that makes features, and a linear layer that makes logits of them.

    Args:
        body: Maps images (B, C, H, W) to (B, ...) with ``width`` numbers an image.
        width: How many features an image has, F.
        classes: How many logits, K.

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
        """What the linear layer sees: features (B, F) of images x (B, C, H, W)."""
        return cast(Tensor, self.body(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images x (B, C, H, W)."""
        return cast(Tensor, self.classifier(self.features(x)))


def padded(size: int) -> int:
    """The side the first convolution sees: 28 pixels are padded to 32 on every side, others stay.

    So that networks made for 32x32 images take the MNIST family unchanged.
    """
    return 32 if size == 28 else size


def stem_padding(size: int, kernel: int) -> int:
    """Padding of a first convolution that keeps the side, and takes 28 pixels to 32.

    >>> stem_padding(32, 3), stem_padding(28, 3), stem_padding(28, 5)
    (1, 3, 4)
    """
    return (kernel - 1 + padded(size) - size) // 2
