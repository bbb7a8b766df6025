r"""Average pooling of 2 x 2 pixels in a few vectorised passes on the CPU, where PyTorch's kernel goes pixel by pixel.

It took a quarter of a ConvNet's forward and backward pass. The bits are those of PyTorch: a mean is
(((a + b) + c) + d) / 4 of the pixels in reading order, and its gradient reaches each of them divided by 4.

Shapes: `B` batch, `C H W` image.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

FEWEST = 1 << 16
"""Numbers from which on the passes win over what they cost to start."""
WIDE = torch.float32, torch.float64  # PyTorch sums narrower ones in float32


class AvgPool2d(nn.AvgPool2d):
    """PyTorch's average pooling of 2 x 2 pixels, by `average_pool`."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the means (B, C, H/2, W/2) of x (B, C, H, W)."""
        return average_pool(x)


def average_pool(x: Tensor) -> Tensor:
    """Return the means (B, C, H/2, W/2) of blocks of 2 x 2 pixels of x (B, C, H, W), odd sides rounded down.

    Same values as `torch.nn.functional.avg_pool2d`. It can be differentiated any number of times.

    >>> average_pool(torch.tensor([[0.0, 1.0], [2.0, 5.0]]).view(1, 1, 2, 2)).item()
    2.0
    """
    even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    if x.device.type != "cpu" or x.numel() < FEWEST or not even or x.dtype not in WIDE:
        return avg_pool2d(x, 2)
    pooled: Tensor = (_Pool.apply if torch.is_grad_enabled() else _Pool.forward)(x)
    return pooled


class _Pool(torch.autograd.Function):
    """The means."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        upper, lower = x[..., ::2, :], x[..., 1::2, :]
        total = upper[..., ::2] + upper[..., 1::2]
        return total.add_(lower[..., ::2]).add_(lower[..., 1::2]).div_(4)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        slope: Tensor = (_Spread.apply if torch.is_grad_enabled() else _Spread.forward)(dy)
        return slope


class _Spread(torch.autograd.Function):
    """The gradient of the means, whose own gradient is the means again."""

    @staticmethod
    def forward(dy: Tensor) -> Tensor:
        *first, height, width = dy.shape
        share, slope = dy / 4, dy.new_empty(*first, 2 * height, 2 * width)
        upper = slope[..., ::2, :]
        upper[..., ::2], upper[..., 1::2] = share, share
        slope[..., 1::2, :] = upper
        return slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        means: Tensor = (_Pool.apply if torch.is_grad_enabled() else _Pool.forward)(u)
        return means
