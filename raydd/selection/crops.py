"""Mosaics of crops that an expert classifies well; see `raydd.selection.class_sampler.Start`.

Shapes: `n` images, `K` classes, `C H W` image.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from raydd.selection.class_sampler import Request

MOST_IMAGES, CROPS = 300, 5
"""Images of a class that are looked at, at most; random crops of each."""
LEAST_AREA, STRETCH = 0.25, 4 / 3
"""The least part of an image that a crop has, and how much wider than high it may be, or higher than wide."""
LARGE = 64
"""Side in pixels from which an image is a mosaic of four crops."""


def rded(request: Request) -> tuple[Tensor, Tensor]:
    """Return mosaics of the crops that one sampled expert classifies best, with its logits on them (K ipc, K).

    Raises:
        ValueError: There are no experts, or a class has too few images for its mosaics.

    Reference:
        Sun et al., arXiv 2312.03526 (RDED), its two stages.
    """
    known = request.require_experts("rded")
    expert = known.pick(request.rng)
    side = 2 if request.dataset.size >= LARGE else 1
    images = []
    for label, rows in enumerate(request.classes()):
        if len(rows) < request.ipc * side**2:
            most = len(rows) // side**2
            raise ValueError(
                f"rded puts {side**2} images of class {request.dataset.classes[label]!r} into one, and it has "
                f"{len(rows)} for ipc {request.ipc}; use {f'--ipc {most} or less' if most else 'another method'}"
            )
        looked = rows[: max(MOST_IMAGES, request.ipc * side**2)]
        crops = random_crops(request.images(looked), CROPS, request.rng)
        losses = torch.stack([losses_of(known.logits(expert, each), label) for each in crops])
        best = crops[losses.argmin(0), torch.arange(len(looked))]
        order = torch.argsort(losses.min(0).values, stable=True)[: request.ipc * side**2]
        images.append(mosaic(best[order], side))
    mosaics = torch.cat(images)
    return mosaics, known.logits(expert, mosaics)


def losses_of(logits: Tensor, label: int) -> Tensor:
    """Return the cross-entropy (n,) of logits (n, K) for one class."""
    return cross_entropy(logits, torch.full((len(logits),), label), reduction="none")


def random_crops(images: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return ``count`` random crops of each image, enlarged to its size: (count, n, C, H, W)."""
    height, width = images.shape[-2:]
    crops = torch.empty(count, *images.shape)
    for place in range(count):
        for row, image in enumerate(images):
            area, stretch, top, left = torch.rand(4, generator=rng).tolist()
            part = LEAST_AREA + (1 - LEAST_AREA) * area
            ratio = STRETCH ** (2 * stretch - 1)
            h = max(1, min(height, round(height * (part / ratio) ** 0.5)))
            w = max(1, min(width, round(width * (part * ratio) ** 0.5)))
            y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
            crop = image[None, :, y : y + h, x : x + w]
            crops[place, row] = interpolate(crop, (height, width), mode="bilinear", align_corners=False)[0]
    return crops


def mosaic(images: Tensor, side: int) -> Tensor:
    """Return images (n / side^2, C, H, W), each of side x side of these (n, C, H, W), made small."""
    if side == 1:
        return images
    height, width = images.shape[-2:]
    rows = []
    for row in range(side):
        top, bottom = row * height // side, (row + 1) * height // side
        parts = []
        for column in range(side):
            left, right = column * width // side, (column + 1) * width // side
            tile = images[row * side + column :: side**2]
            parts.append(interpolate(tile, (bottom - top, right - left), mode="bilinear", antialias=True))
        rows.append(torch.cat(parts, dim=-1))
    return torch.cat(rows, dim=-2)
