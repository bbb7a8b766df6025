"""Residual networks with basic blocks, in their small-image form: a 3x3 stem and no first pooling."""

from typing import cast

import torch
from torch import Tensor, nn

from raydd.models.classifier import Classifier, Norm, instance_norm


class Residual(nn.Module):
    """``relu(body(x) + shortcut(x))`` with two 3x3 convolutions; the first one and the shortcut have the stride."""

    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
        )
        projection = [nn.Conv2d(inputs, width, 1, stride, bias=False), norm(width)]
        self.shortcut = nn.Sequential(*(projection if stride != 1 or inputs != width else []))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, width, H / stride, W / stride)."""
        return torch.relu(cast(Tensor, self.body(x)) + cast(Tensor, self.shortcut(x)))


def resnet(
    channels: int, size: int, classes: int, *, blocks: tuple[int, ...], norm: Norm = instance_norm, width: int = 64
) -> Classifier:
    """Build a stem and stages of 64, 128, 256 and 512 channels, averaged to 512 features.

    Reference: arXiv 1512.03385, as in the official code of arXiv 2006.05929.
    Differs: A stage halves its map only if the side is more than 2 pixels (an instance norm of one pixel is constant),
        and the whole last map is averaged; on 28x28 and 32x32 images nothing differs.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False), norm(width), nn.ReLU()]
    inputs, side = width, size
    for stage, count in enumerate(blocks):
        outputs, stride = width * 2**stage, 2 if stage and side > 2 else 1
        strides = [1 if block else stride for block in range(count)]
        layers += [Residual(outputs if block else inputs, outputs, s, norm) for block, s in enumerate(strides)]
        inputs, side = outputs, -(-side // stride)
    return Classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)), inputs, classes)
