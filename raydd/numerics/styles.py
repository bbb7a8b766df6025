"""Styles: small hallucinators, each of which makes an image for networks of every stored one.

Shapes: `N` stored images, `S` styles, `C H W` image, `D` parameters of a style.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

KERNEL = 3
"""Side of the convolutions, in pixels."""


def style_size(shape: Sequence[int]) -> int:
    """Return D, the number of a style's parameters, for images of shape (C, H, W).

    Raises:
        ValueError: An image is smaller than the convolution.

    >>> style_size((3, 32, 32))
    5568
    """
    return sum(math.prod(part) for part in _parts(shape))


def start_styles(count: int, shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Return styles (S, D), float32: scales are 1, shifts 0, and convolutions are drawn as PyTorch draws its own.

    Weights and biases of both convolutions are uniform in +-1 / sqrt(9 C).

    Args:
        count: S.
        shape: (C, H, W) of the images.
        rng: Of all draws.
    """
    sizes, bound = [math.prod(part) for part in _parts(shape)], 1 / (KERNEL * math.sqrt(shape[0]))
    styles = bound * (2 * torch.rand(count, sum(sizes), generator=rng) - 1)
    _, _, scale, shift, _, _ = styles.split(sizes, dim=1)
    scale.fill_(1.0)
    shift.zero_()
    return styles


def check_styles(styles: Tensor | None, count: int, shape: Sequence[int]) -> None:
    """Refuse what is not ``count`` styles (S, D) of images of shape (C, H, W); where there are none, it is None."""
    if styles is None and not count:
        return
    wanted = (count, style_size(shape))
    if styles is None or not count or not styles.is_floating_point() or tuple(styles.shape) != wanted:
        there = "missing" if styles is None else f"{styles.dtype} of shape {tuple(styles.shape)}"
        raise ValueError(f"styles are {there}; {count} of images {tuple(shape)} are floats of shape {wanted}")


def hallucinate(images: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return each image in each style; differentiable in images and styles.

    style(b) = W_dec^T * (sigma . (W_enc * b + beta_enc) + mu) + beta_dec

    W_enc is a convolution of 3 x 3 without padding, from C channels to C, sigma and mu are a scale and a shift of every
    feature at every position, (C, H - 2, W - 2), and W_dec^T is the transposed convolution back to (C, H, W).

    Args:
        images: The bases b, (N, C, H, W).
        styles: (S, D): weights (C, C, 3, 3) and bias of the encoder, scale, shift, weights and bias of the decoder.

    Returns:
        Images (N S, C, H, W), those of a base after one another, and the row (N S,) int64 of the base of each.

    Reference:
        Liu et al., arXiv 2210.16774 (HaBa), section 3.2, with the layers of its official code.

    Differs:
        The paper describes blocks of a convolution and a ReLU. Its official code has no ReLU, and neither has this.

    >>> styled, rows = hallucinate(torch.zeros(2, 1, 4, 4), torch.zeros(3, style_size((1, 4, 4))))
    >>> styled.shape, rows.tolist()
    (torch.Size([6, 1, 4, 4]), [0, 0, 0, 1, 1, 1])
    """
    count, channels = len(styles), images.shape[1]
    parts = _parts(images.shape[1:])
    split = styles.split([math.prod(part) for part in parts], dim=1)
    encoder, encoder_bias, scale, shift, decoder, decoder_bias = (
        value.reshape(count * part[0], *part[1:]) for value, part in zip(split, parts, strict=True)
    )
    features = scale * F.conv2d(images, encoder, encoder_bias) + shift
    styled = F.conv_transpose2d(features, decoder, decoder_bias, groups=count)
    rows = torch.arange(len(images), device=images.device).repeat_interleave(count)
    return styled.unflatten(1, (count, channels)).flatten(0, 1), rows


def _parts(shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a style's tensors, in their order."""
    channels, height, width = shape
    if min(height, width) < KERNEL:
        raise ValueError(f"styles need images of {KERNEL} x {KERNEL} pixels or more, not {height} x {width}")
    weights, features = (channels, channels, KERNEL, KERNEL), (channels, height - KERNEL + 1, width - KERNEL + 1)
    return weights, (channels,), features, features, weights, (channels,)
