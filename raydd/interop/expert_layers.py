"""Map tensors of other projects' networks to those of ours."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydd.interop.torchfile import describe_value
from raydd.numerics.flat import layout_of, running_statistics

EXACT = (torch.float32, torch.float16, torch.bfloat16)
"""Types that float32 holds without rounding."""
MODULES = re.compile(
    r"features\.\d+|classifier|fc|fc_[123]|linear|"  # the DC family's ConvNet, MLP, LeNet, AlexNet, VGG11
    r"layers\.(conv|norm)\.\d+|"  # IDC's ConvNet
    r"(layer0\.)?(conv1|bn1)|layer[1-4]\.\d+\.(conv[12]|bn[12]|(shortcut|downsample)\.[01])|"  # ResNets
    r"dense[1-4]\.\d+\.(bn|conv)[12]|trans[1-3]\.(bn|conv)|bn"  # DenseNet
)
"""Layers of the networks that compute the same as ours, in the same order of layers."""
_IDC = re.compile(r"layers\.(?P<kind>conv|norm)\.(?P<block>\d+)")
Snapshot = dict[str, Tensor]
"""Parameters and running statistics by our names."""


class Target:
    """The network that experts are of: a name of `raydd.NETWORKS`, and the network with any weights."""

    def __init__(self, name: str, network: nn.Module) -> None:
        self.name, self.network = name, network
        self.layout = layout_of(dict(network.named_parameters()))  # of theta (P,)
        self.buffer_layout = layout_of(running_statistics(network))  # empty without BatchNorm
        state = network.state_dict()  # parameters and running statistics, layer by layer
        self.shapes = {name: tuple(value.shape) for name, value in state.items() if value.is_floating_point()}


def check_tensor(tensor: Any, shape: tuple[int, ...], place: str, target: Target) -> None:
    """Refuse a value that is not a tensor of a shape and of numbers that float32 holds."""
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    if not plain or tensor.dtype not in EXACT:
        kind = f", {tensor.dtype}" if isinstance(tensor, Tensor) else ""
        raise ValueError(f"{place} is {describe_value(tensor)}{kind}; save experts as plain tensors of float32")
    if tuple(tensor.shape) != shape:
        what = f"has shape {tuple(tensor.shape)}, and {shape} in {target.name}"
        raise ValueError(f"{place} {what}; name the right --network and --dataset")


def by_layer(names: Sequence[str], target: Target, place: str = "the checkpoint") -> dict[str, str]:
    """Return their name of each of our tensors: layers in order, and equal last names in each.

    IDC's ConvNet lists all convolutions before all norms; they are put back in the order of the blocks.
    """
    theirs, ours = _layers(names), _layers(target.shapes)
    for layer in theirs:
        if not MODULES.fullmatch(layer):
            known = "MTT's and IDC's ConvNet, MLP, LeNet, AlexNet, VGG11, ResNet, DenseNet are known"
            raise ValueError(f"{place}: {layer!r} is a layer of no network that is one of ours; {known}")
    ordered = sorted(theirs, key=_block)
    if [theirs[layer].keys() for layer in ordered] != [tensors.keys() for tensors in ours.values()]:
        layers = f"{len(theirs)} layers from {ordered[0]} to {ordered[-1]}"
        raise ValueError(f"{place}: {layers} are not the {len(ours)} layers of {target.name}; name the right --network")
    pairs = zip(ours.values(), (theirs[layer] for layer in ordered), strict=True)
    return {own[last]: their[last] for own, their in pairs for last in own}


def _layers(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return full names by layer and last name."""
    layers: dict[str, dict[str, str]] = {}
    for name in names:
        layer, _, last = name.rpartition(".")
        layers.setdefault(layer, {})[last] = name
    return layers


def _block(layer: str) -> tuple[int, int, str]:
    match = _IDC.fullmatch(layer)
    return (0, int(match["block"]), match["kind"]) if match else (1, 0, "")  # equal keys keep their order
