"""Synthetic sets as pictures."""

import io
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
    channels, side = pixels.shape[1], pixels.shape[2]
    members = [torch.nonzero(labels == label).flatten()[:most_per_class] for label in range(len(synset.classes))]
    rows = max(len(rows) for rows in members)
    canvas = torch.ones(channels, rows * (side + GAP) + GAP, len(members) * (side + GAP) + GAP)
    for column, images in enumerate(members):
        for row, index in enumerate(images):
            top, left = GAP + row * (side + GAP), GAP + column * (side + GAP)
            canvas[:, top : top + side, left : left + side] = pixels[index]
    picture = to_image(canvas)
    factor = -(-LEAST_SIDE // side)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Return a picture of pixels (C, H, W) in [0, 1], C being 1 or 3."""
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.squeeze(array, axis=2) if array.shape[2] == 1 else array)


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a picture, whole or not at all."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    return write_atomic(path, data.getvalue())
