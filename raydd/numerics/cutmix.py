"""CutMix: a box of every image comes from another image, and the loss weighs both labels by their pixels.

Shapes: `B` batch, `C H W` image, `K` classes.
"""

import math

import torch
from torch import Tensor

from raydd.numerics.rng import moved


def cutmix(x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Return images with a box of their partner, the partners' labels, and the share of pixels that are an image's own.

    lambda ~ Beta(1, 1). The box is the same in every image: sides H sqrt(1 - lambda) and W sqrt(1 - lambda), centred at
    any pixel and cut off at the border.
    The loss to take is ``share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, partners)``.

    Images x are (B, C, H, W) and are not changed; labels y are classes (B,) or probabilities (B, K). The share counts
    whole pixels.

    Reference: Yun et al., arXiv 1905.04899, section 3.1 and Algorithm A1.
    Differs: Algorithm A1 rounds the borders of the box. Here, as in the official code, its centre is a pixel and half
        of each side is rounded down.

    >>> x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    >>> x, partners, share = cutmix(x, torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    >>> partners.tolist(), share, x.mean((1, 2, 3)).tolist()
    ([1, 0], 0.875, [0.125, 0.875])
    """
    height, width = x.shape[2:]
    share = float(torch.rand((), generator=rng))
    order = moved(torch.randperm(len(x), generator=rng), x.device)
    top, bottom = _interval(height, share, rng)
    left, right = _interval(width, share, rng)
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x[order, :, top:bottom, left:right]
    return mixed, y[order], 1 - (bottom - top) * (right - left) / (height * width)


def _interval(side: int, share: float, rng: torch.Generator) -> tuple[int, int]:
    """Return where a box that leaves this share of the area begins and ends along a side."""
    half = int(side * math.sqrt(1 - share)) // 2
    centre = int(torch.randint(side, (), generator=rng))
    return max(centre - half, 0), min(centre + half, side)
