"""Networks of the timm package, behind the interface of the zoo."""

import difflib
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn


class Timm(nn.Module):
    """A timm network with ``features(x)``: its output before the last linear layer.

    Args:
        network: Made by ``timm.create_model``.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def features(self, x: Tensor) -> Tensor:
        """Features (B, F) of images x (B, C, H, W)."""
        maps = self.network.forward_features(x)
        return cast(Tensor, self.network.forward_head(maps, pre_logits=True)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images x (B, C, H, W)."""
        return cast(Tensor, self.network(x))


def timm_network(name: str, channels: int, size: int, classes: int) -> nn.Module:
    """The timm network ``name`` with fresh weights; nothing is downloaded.

    Networks that are made for one image size (vision transformers) are made for ``size``. Not all of
    timm can be differentiated twice (fused attention and hard sigmoids cannot, on a CPU): those
    networks can evaluate a synthetic set, and match features, but not gradients or trajectories.

    Args:
        name: As timm spells it.
        channels: Channels of an image, C.
        size: Side of an image in pixels, H = W.
        classes: How many logits, K.

    Raises:
        ValueError: timm is not installed, it has no such network, or the network cannot take images
            of (``channels``, ``size``, ``size``).
    """
    timm = _timm(name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.0)
        raise ValueError(f"timm has no network {name!r}: choose from timm.list_models(), such as {', '.join(near)}")
    settings = timm.get_pretrained_cfg(name)
    fixed = {"img_size": size} if settings is not None and settings.fixed_input_size else {}
    try:
        network = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=classes, **fixed)
        wrapped = _out_of_place(Timm(network))
        _try(wrapped, torch.zeros(1, channels, size, size))
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        shape = f"{channels}x{size}x{size}"
        reason = str(error).split("\n")[0]
        raise ValueError(f"timm:{name} cannot take {shape} images ({reason}): use another network or size") from error
    return wrapped


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        message = f"network 'timm:{name}' needs the timm package: pip install 'raydd[timm]'"
        raise ValueError(message) from None
    return cast(ModuleType, timm)


def _out_of_place(network: nn.Module) -> nn.Module:
    """Activations that overwrite their input cannot be differentiated twice in every case."""
    for module in network.modules():
        if "inplace" in vars(module):
            module.inplace = False  # type: ignore[assignment]
    return network


def _try(network: Timm | nn.Module, images: Tensor) -> None:
    """Fails as the network fails on such images; leaves it as it was."""
    network.eval()
    with torch.no_grad():
        network.features(images)  # type: ignore[operator]
    network.train()
