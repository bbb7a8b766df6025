"""DenseNet in its small-image form: a 3x3 stem of stride 1 and no first pooling."""

from typing import cast

import torch
from torch import Tensor, nn

from raydd.models.average_pool import AvgPool2d
from raydd.models.classifier import Classifier


class Dense(nn.Module):
    """Appends ``growth`` channels, computed from all ``inputs`` channels: ``[body(x), x]``."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(inputs, 4 * growth, 1), _convolution(4 * growth, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, growth + inputs, H, W)."""
        return torch.cat((cast(Tensor, self.body(x)), x), dim=1)


def densenet(channels: int, size: int, classes: int, *, blocks: tuple[int, ...], growth: int = 32) -> Classifier:
    """Build dense blocks with transitions between them that halve the channels and the map.

    Reference: arXiv 1608.06993, the bottleneck and compression form (BC), compression 0.5.
    Differs: The stem is that of the paper's CIFAR networks. A transition halves the map only if its side is at least 4
        pixels, so that images under 32x32 keep a map of 2x2 or more.
    """
    width, side = 2 * growth, size
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
    for place, count in enumerate(blocks):
        if place:
            layers.append(_convolution(width, width // 2, 1))
            width //= 2
            layers += [AvgPool2d()] if side >= 4 else []
            side = side // 2 if side >= 4 else side
        layers += [Dense(width + growth * layer, growth) for layer in range(count)]
        width += growth * count
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return Classifier(nn.Sequential(*layers), width, classes)


def _convolution(inputs: int, width: int, kernel: int) -> nn.Sequential:
    """Return norm, activation and convolution, in the order of the paper."""
    convolution = nn.Conv2d(inputs, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), convolution)
