"""Formation: stored images of which networks see several each, as parts of a mosaic or in several styles.

Shapes: `N` stored images, `M` decoded images, `C H W` image, `rho` tiles along a side, `S` styles of `D` parameters.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.numerics.styles import hallucinate


class Formation(NamedTuple):
    """How stored images become the images that networks see.

    Attributes:
        factor: rho: a stored image is a mosaic of rho x rho smaller ones; 1 is a plain image.
        decode: A key of `DECODE`: uniform, multi or bounded.
        bound: The most decoded images of a class, where ``decode`` is bounded; at least its stored images.
        styles: S: a stored image is a base, which networks see in each of S styles; 0 is none. Not with mosaics.
    """

    factor: int = 1
    decode: str = "uniform"
    bound: int = 128
    styles: int = 0

    @property
    def plain(self) -> bool:
        """Whether networks see the stored images themselves."""
        return self.factor == 1 and not self.styles

    def document(self) -> dict[str, Any]:
        """Return the fields as files have them: ``styles`` only where there are some.

        >>> Formation(2).document()
        {'factor': 2, 'decode': 'uniform', 'bound': 128}
        """
        return self._asdict() if self.styles else {"factor": self.factor, "decode": self.decode, "bound": self.bound}


PLAIN = Formation()
"""The formation of plain images."""


def encode(images: Tensor, factor: int) -> Tensor:
    """Return mosaics of images that are down-sampled bilinearly, with antialiasing.

    A tile's borders are floor(k H / rho), so that tiles differ by one pixel where rho does not divide H.

    Args:
        images: (N rho^2, C, H, W); rows i rho^2 .. (i + 1) rho^2 - 1 make mosaic i, its tiles row by row.
        factor: rho; 1 returns the images.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: rho^2 does not divide the number of images, or a tile would have no pixel.

    Reference: Kim et al., arXiv 2205.14959 (IDC), section 4.
    Differs: The official start samples the nearest pixel without smoothing, and gives larger tiles to the first rows
        and columns where rho does not divide H.

    >>> images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    >>> encode(images, 2).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if factor == 1:
        return images
    if len(images) % factor**2:
        count, square = len(images), factor**2
        raise ValueError(f"{count} images do not fill mosaics of {factor} x {factor}; give a multiple of {square}")
    groups = images.unflatten(0, (-1, factor**2))
    rows, columns = borders(images.shape[2], factor), borders(images.shape[3], factor)
    strips = []
    for i, (top, bottom) in enumerate(rows):
        tiles = [
            F.interpolate(groups[:, i * factor + j], (bottom - top, right - left), mode="bilinear", antialias=True)
            for j, (left, right) in enumerate(columns)
        ]
        strips.append(torch.cat(tiles, dim=3))
    return torch.cat(strips, dim=2)


def decode(images: Tensor, formation: Formation, styles: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the images that networks see of stored images; differentiable in them, and in styles.

    styles: each image in each style, see `raydd.numerics.styles.hallucinate`: M = N S. Otherwise by ``decode``:

    uniform: all rho^2 tiles, enlarged bilinearly to (H, W), image by image and row by row: M = N rho^2.
    multi: the uniform decodings of factors 1 to rho, one after another: M = N (1 + 4 + ... + rho^2).
    bounded: every image at one factor f. From f = rho down to 2, the first min(left, room // f^2) of the images that
    are left are decoded at f, where room is ``bound`` less the decoded images and one for each image left; at f = 1 all
    that are left. N <= M <= bound.

    Args:
        images: (N, C, H, W); where the decoding is bounded, those of one class.
        formation: The decoding; that of plain images returns them.
        styles: (S, D), where the formation has styles.

    Returns:
        Images (M, C, H, W) and the row (M,) int64 of the stored image that each comes from.

    Reference: Kim et al., arXiv 2205.14959 (IDC), section 4; the bounded formation is in its official code alone.
    Differs: The official code pads images whose side rho does not divide with 0.5 to tiles of equal size; here tiles
        have the sizes of `encode`. It orders images tile by tile, and does not check that a bound is at least N.

    >>> decoded, rows = decode(torch.zeros(2, 3, 8, 8), Formation(factor=2))
    >>> decoded.shape, rows.tolist()
    (torch.Size([8, 3, 8, 8]), [0, 0, 0, 0, 1, 1, 1, 1])
    """
    if formation.decode not in DECODE:
        raise ValueError(f"unknown decoding {formation.decode!r}; use one of {', '.join(DECODE)}")
    if formation.plain:
        return images, torch.arange(len(images), device=images.device)
    if styles is not None:
        return hallucinate(images, styles)
    return DECODE[formation.decode](images, formation)


def borders(side: int, factor: int) -> list[tuple[int, int]]:
    """Return the first pixel, and the one after the last, of each of rho tiles along a side.

    >>> borders(8, 3)
    [(0, 2), (2, 5), (5, 8)]
    """
    if factor > side:
        raise ValueError(f"{factor} tiles do not fit a side of {side} pixels; use a factor of {side} or less")
    return list(pairwise(k * side // factor for k in range(factor + 1)))


def _tiles(images: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return all tiles of one scale, enlarged: (N factor^2, C, H, W), and the rows that they come from."""
    height, width = images.shape[2:]
    rows = torch.arange(len(images), device=images.device).repeat_interleave(factor**2)
    if factor == 1:
        return images, rows
    across = [(left, right, _weights(right - left, width, images)) for left, right in borders(width, factor)]
    tiles = []
    for top, bottom in borders(height, factor):
        strip = _weights(bottom - top, height, images) @ images[:, :, top:bottom]
        tiles += [strip[..., left:right] @ weights.T for left, right, weights in across]
    return torch.stack(tiles, dim=1).flatten(0, 1), rows


def _weights(tile: int, side: int, like: Tensor) -> Tensor:
    """Bilinear interpolation as a matrix (side, tile): unlike interpolation's own, its gradient is exact on CUDA."""
    unit = torch.eye(tile, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], side, mode="linear", align_corners=False)[0].T


def _multi(images: Tensor, formation: Formation) -> tuple[Tensor, Tensor]:
    return _joined(_tiles(images, factor) for factor in range(1, formation.factor + 1))


def _bounded(images: Tensor, formation: Formation) -> tuple[Tensor, Tensor]:
    room, first, parts = formation.bound - len(images), 0, []
    if room < 0:
        raise ValueError(
            f"formation.bound {formation.bound} is less than the {len(images)} images stored of a class; "
            f"use a formation.bound of {len(images)} or more"
        )
    for factor in range(formation.factor, 0, -1):
        left = len(images) - first
        count = min(left, room // factor**2) if factor > 1 else left
        decoded, rows = _tiles(images[first : first + count], factor)
        parts.append((decoded, rows + first))
        first += count
        room -= count * (factor**2 - 1)  # each image has its own place from the start
    return _joined(parts)


def _joined(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    decoded, rows = zip(*parts, strict=True)
    return torch.cat(decoded), torch.cat(rows)


DECODE: dict[str, Callable[[Tensor, Formation], tuple[Tensor, Tensor]]] = {
    "uniform": lambda images, formation: _tiles(images, formation.factor),
    "multi": _multi,
    "bounded": _bounded,
}
"""By name: (images (N, C, H, W), formation) -> decoded images and their rows."""
