"""All networks by name.

The ConvNet family is spelled as in the official code of arXiv 2006.05929: ``ConvNet``, then any of these parts in any
order, each axis at most once (``ConvNetW32D3BN``):

    W<width>  D<depth>                      default 128, and as many halvings as leave 4 to 7 pixels
    NN BN LN IN GN                          norm: none, batch, layer, instance (default), group
    AS AR AL                                activation: sigmoid, relu (default), leaky relu
    NP MP AP                                pooling: none, max, average (default)

The others but MLP and LeNet take the width of their first layer, or the growth of DenseNet121: ``ResNet18W16``,
``VGG11BNW16``, ``AlexNetW32``, ``DenseNet121W8``. ``timm:<name>`` is any network of timm, where it is installed.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from raydd.models.convnet import SPELLING, ConvNet, natural_depth
from raydd.models.densenet import densenet
from raydd.models.external import timm_network
from raydd.models.plain import alexnet, lenet, mlp, vgg11
from raydd.models.resnet import resnet
from raydd.plugins import Table

Builder = Callable[[int, int, int], nn.Module]


@dataclass(frozen=True)
class Network:
    """One row of the zoo.

    Attributes:
        build: (channels, size, classes) -> module with ``features(x)`` (B, F) and ``forward(x)`` (B, K).
        smallest: The smallest side of an image, in pixels, that it takes.
    """

    build: Builder
    smallest: int


def _convnet(channels: int, size: int, classes: int) -> nn.Module:
    return ConvNet(channels, size, classes, depth=natural_depth(size))


_SHIPPED = {
    "ConvNet": Network(_convnet, smallest=4),
    "MLP": Network(mlp, smallest=1),
    "LeNet": Network(lenet, smallest=1),
    "AlexNet": Network(alexnet, smallest=8),
    "VGG11": Network(vgg11, smallest=2),
    "VGG11BN": Network(partial(vgg11, norm=nn.BatchNorm2d), smallest=2),
    "ResNet10": Network(partial(resnet, blocks=(1, 1, 1, 1)), smallest=2),
    "ResNet10BN": Network(partial(resnet, blocks=(1, 1, 1, 1), norm=nn.BatchNorm2d), smallest=2),
    "ResNet18": Network(partial(resnet, blocks=(2, 2, 2, 2)), smallest=2),
    "ResNet18BN": Network(partial(resnet, blocks=(2, 2, 2, 2), norm=nn.BatchNorm2d), smallest=2),
    "DenseNet121": Network(partial(densenet, blocks=(6, 12, 24, 16)), smallest=2),
}
NETWORKS: Table[Network] = Table("NETWORKS", Network, _SHIPPED)
"""The networks by name; parts after a name change width, depth and layers."""

_PARTS = {short: (axis, word) for axis, words in SPELLING.items() for word, short in words.items()}
_WIDE = {"AlexNet": "width", "VGG11": "width", "ResNet10": "width", "ResNet18": "width", "DenseNet121": "growth"}
_WIDTH = re.compile(rf"(?P<name>(?:{'|'.join(_WIDE)})(?:BN)?)W(?P<width>[1-9][0-9]{{0,4}})")
_NUMBERS = {"W": "width", "D": "depth"}
_SPELLING = re.compile(rf"[WD][0-9]+|{'|'.join(_PARTS)}")
_FAMILY = re.compile(rf"ConvNet(?P<parts>(?:{_SPELLING.pattern})+)")


def build(name: str, *, channels: int, size: int, classes: int) -> nn.Module:
    """Build a network with new weights.

    Args:
        name: A key of `NETWORKS`, with a width where it takes one, a member of the ConvNet family, or ``timm:<name>``.
        channels: Channels of an image, C.
        size: Side of an image in pixels, H = W.
        classes: Number of logits, K.

    Returns:
        A module with ``features(x) -> (B, F)`` and ``forward(x) -> logits (B, K)``, x (B, C, H, W).

    Raises:
        ValueError: An unknown name, timm missing, a number under 1, or images too small for the network.

    >>> network = build("ConvNetW16BN", channels=1, size=8, classes=10)
    >>> [type(layer).__name__ for layer in network.body][:4], network.classifier.in_features
    (['Conv2d', 'BatchNorm2d', 'ReLU', 'AvgPool2d'], 64)
    """
    for what, value in (("channels", channels), ("size", size), ("classes", classes)):
        if value < 1:
            raise ValueError(f"{what} of a network is {value}: use at least 1")
    row = find(name)
    if size < row.smallest:
        least = f"{row.smallest}x{row.smallest}"
        raise ValueError(f"{name} cannot run on {size}x{size} images: use {least} or larger ones, or MLP")
    return row.build(channels, size, classes)


def find(name: str) -> Network:
    """Return the row of a name."""
    if name.startswith("timm:"):
        return Network(partial(timm_network, name.removeprefix("timm:")), smallest=1)
    if (match := _WIDTH.fullmatch(name)) and match["name"] in NETWORKS:
        row = NETWORKS[match["name"]]
        return replace(row, build=partial(row.build, **{_WIDE[match["name"].removesuffix("BN")]: int(match["width"])}))
    if match := _FAMILY.fullmatch(name):
        return _member(name, _SPELLING.findall(match["parts"]))
    if name in NETWORKS:  # last, since a miss imports the plugins
        return NETWORKS[name]
    raise ValueError(_unknown(name))


def _member(name: str, parts: list[str]) -> Network:
    """Return the ConvNet that the parts of its name spell."""
    numbers = {_NUMBERS[part[0]]: int(part[1:]) for part in parts if part not in _PARTS}
    words = dict(_PARTS[part] for part in parts if part in _PARTS)
    if len(numbers) + len(words) < len(parts):
        raise ValueError(f"network {name!r} sets one of width, depth, norm, activation, pooling twice: keep one")

    def build_member(channels: int, size: int, classes: int) -> nn.Module:
        settings = {"depth": natural_depth(size)} | numbers
        return ConvNet(channels, size, classes, **settings, **words)  # type: ignore[arg-type]

    return Network(build_member, smallest=1)


def _unknown(name: str) -> str:
    """Return the line that names near and all names."""
    spelled = {known.lower(): known for known in (*NETWORKS, "ConvNetD4", "ConvNetW32", "ConvNetBN")}
    near = [spelled[match] for match in difflib.get_close_matches(name.lower(), spelled, n=3)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    family = f"ConvNet with any of W<width>, D<depth>, {', '.join(_PARTS)}, others with W<width>"
    return f"unknown network {name!r}: {hint}choose from {', '.join(NETWORKS)}, {family}, timm:<name>"
