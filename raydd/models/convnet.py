"""The ConvNet family, the common networks of dataset distillation.

Shapes: `B` batch, `C H W` image, `F` features, `K` classes.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import nn

from raydd.models.average_pool import AvgPool2d
from raydd.models.classifier import Classifier, GroupNorm, instance_norm, padded, stem_padding

_Value = TypeVar("_Value")

# Each takes the width and the side of its map.
NORMS: dict[str, Callable[[int, int], nn.Module | None]] = {
    "none": lambda width, side: None,
    "batch": lambda width, side: nn.BatchNorm2d(width),
    "layer": lambda width, side: nn.LayerNorm((width, side, side)),
    "instance": lambda width, side: instance_norm(width),
    "group": lambda width, side: GroupNorm(4, width),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "leakyrelu": lambda: nn.LeakyReLU(0.01),
}
POOLINGS: dict[str, Callable[[], nn.Module | None]] = {
    "none": lambda: None,
    "max": lambda: nn.MaxPool2d(2),
    "avg": AvgPool2d,
}
SPELLING = {
    "norm": {"none": "NN", "batch": "BN", "layer": "LN", "instance": "IN", "group": "GN"},
    "activation": {"sigmoid": "AS", "relu": "AR", "leakyrelu": "AL"},
    "pooling": {"none": "NP", "max": "MP", "avg": "AP"},
}
"""By axis: how a network's name spells each of its words."""


class ConvNet(Classifier):
    """``depth`` blocks of convolution, normalisation, activation and pooling; then one linear layer.

    Convolutions are 3x3 with padding 1; pooling is 2x2 with stride 2 and rounds odd sides down. The first convolution
    pads 28x28 images to 32x32 (padding 3). Initial weights are PyTorch's own.

    Reference: arXiv 2006.05929, section 4.1, and its official code.
    Differs: Padding 3 depends on the image's size (28), not on its channels (1), so that grey images of other sizes
        keep theirs and colour images of 28x28 work; grey 28x28 and colour 32x32 images do not differ.

    >>> import torch
    >>> network = ConvNet(3, 32, 10)
    >>> sum(p.numel() for p in network.parameters()), network.features(torch.zeros(2, 3, 32, 32)).shape
    (320010, torch.Size([2, 2048]))
    """

    def __init__(  # noqa: PLR0913 - the five axes of the family, beside the data set's three numbers
        self,
        channels: int,
        size: int,
        classes: int,
        *,
        width: int = 128,
        depth: int = 3,
        norm: str = "instance",
        activation: str = "relu",
        pooling: str = "avg",
    ) -> None:
        normalise = _choose(NORMS, "norm", norm)
        activate = _choose(ACTIVATIONS, "activation", activation)
        pool = _choose(POOLINGS, "pooling", pooling)
        _check(size, width, depth, norm, pooling)
        side, layers = padded(size), list[nn.Module | None]()
        for block in range(depth):
            first = block == 0
            inputs, padding = (channels, stem_padding(size, 3)) if first else (width, 1)
            layers += [nn.Conv2d(inputs, width, 3, padding=padding), normalise(width, side), activate(), pool()]
            side = side if pooling == "none" else side // 2
        body = nn.Sequential(*(layer for layer in layers if layer is not None))
        super().__init__(body, width * side * side, classes)


def natural_depth(size: int) -> int:
    """Return how many halvings leave 4 to 7 pixels of a side of ``size`` pixels (28 counts as 32), at least 2.

    >>> [natural_depth(size) for size in (8, 28, 32, 64, 128)]
    [2, 3, 3, 4, 5]
    """
    return max(2, (padded(size) // 4).bit_length() - 1)


def _choose(rows: Mapping[str, _Value], what: str, name: str) -> _Value:
    if name not in rows:
        raise ValueError(f"unknown {what} {name!r} of a ConvNet: choose from {', '.join(rows)}")
    return rows[name]


def _check(size: int, width: int, depth: int, norm: str, pooling: str) -> None:
    if width < 1 or depth < 1:
        raise ValueError(f"a ConvNet of width {width} and depth {depth}: use a width and a depth of at least 1")
    if norm == "group" and width % 4:
        raise ValueError(f"group norm cannot split width {width} into 4 groups: use a multiple of 4")
    if pooling != "none" and padded(size) < 2**depth:
        raise ValueError(
            f"a ConvNet of depth {depth} cannot halve {size}x{size} images {depth} times:"
            f" use depth {padded(size).bit_length() - 1} or less (D), or no pooling (NP)"
        )
