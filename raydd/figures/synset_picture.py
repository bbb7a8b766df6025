"""Synthetic sets as pictures."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raydd.data.synset import SyntheticSet
from raydd.io.files import write_atomic

GAP = 2
LEAST_SIDE = 32


def grid(synset: SyntheticSet, most_per_class: int = 10) -> Image.Image:
    """Return all classes as columns, images of a class from top to bottom, preprocessing undone, mosaics whole.

    Small images are enlarged by whole factors to at least 32 pixels, without smoothing. An image with a
    soft label stands in the column of its largest logit.
    """
    pixels, labels = synset.pixels(), synset.hard_labels
    members = [torch.nonzero(labels == label).flatten()[:most_per_class] for label in range(len(synset.classes))]
    places = {(row, column): index for column, images in enumerate(members) for row, index in enumerate(images)}
    shape = max(map(len, members)), len(members)
    picture = arrange({place: to_image(pixels[index]) for place, index in places.items()}, shape, GAP, GAP)
    factor = -(-LEAST_SIDE // pixels.shape[2])
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def arrange(
    images: Mapping[tuple[int, int], Image.Image], shape: tuple[int, int], gap: int = 0, edge: int = 0
) -> Image.Image:
    """Return images of one size in (rows, columns), each at its (row, column); the rest is white."""
    first = next(iter(images.values()), Image.new("L", (1, 1)))
    down, across = first.height + gap, first.width + gap
    size = shape[1] * across - gap + 2 * edge, shape[0] * down - gap + 2 * edge
    canvas = Image.new(first.mode, size, "white")
    for (row, column), image in images.items():
        canvas.paste(image, (edge + column * across, edge + row * down))
    return canvas


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Return a picture of pixels (C, H, W) in [0, 1], C being 1 or 3."""
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.squeeze(array, axis=2) if array.shape[2] == 1 else array)


def png_of(image: Image.Image) -> bytes:
    """Return a picture as PNG."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a picture, whole or not at all."""
    return write_atomic(path, png_of(image))
