"""Networks of the timm package with the interface of the zoo."""

import difflib
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn


class Timm(nn.Module):
    """A network of ``timm.create_model`` with ``features(x)``, its output before the last linear layer."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def features(self, x: Tensor) -> Tensor:
        """Return features (B, F) of images x (B, C, H, W)."""
        maps = self.network.forward_features(x)
        return cast(Tensor, self.network.forward_head(maps, pre_logits=True)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images x (B, C, H, W)."""
        return cast(Tensor, self.network(x))


def timm_network(name: str, channels: int, size: int, classes: int) -> nn.Module:
    """Build the timm network ``name`` with new weights; nothing is downloaded.

    Networks of one image size (vision transformers) are built for ``size``. Not all of timm can be differentiated twice
    (on a CPU, fused attention and hard sigmoids cannot): those networks can evaluate a synthetic set and match
    features, but not gradients or trajectories.
    """
    timm = _timm(name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.0)
        raise ValueError(f"timm has no network {name!r}: choose from timm.list_models(), such as {', '.join(near)}")
    settings = timm.get_pretrained_cfg(name)
    fixed = {"img_size": size} if settings is not None and settings.fixed_input_size else {}
    try:
        network = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=classes, **fixed)
        wrapped = Timm(network).eval()
        for module in wrapped.modules():
            if "inplace" in vars(module):  # what is changed in place cannot always be differentiated twice
                module.inplace = False  # type: ignore[assignment]
        with torch.no_grad():
            wrapped.features(torch.zeros(1, channels, size, size))
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        shape = f"{channels}x{size}x{size}"
        reason = str(error).split("\n")[0]
        raise ValueError(f"timm:{name} cannot take {shape} images ({reason}): use another network or size") from error
    return wrapped.train()


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise ValueError(f"network 'timm:{name}' needs the timm package: pip install 'raydd[timm]'") from None
    return cast(ModuleType, timm)
