"""What a reader of image files hands to the cache: labelled images, a chunk at a time.

Shapes: `n` images of a part, `b` images of a chunk, `C H W` image, `K` classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raydd.numerics.rng import generator

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The training or the test images, not yet decoded.

    Attributes:
        labels: Classes (n,).
        chunks: Gives the images in the labels' order, as arrays (b, C, H, W) that sum to n images.
    """

    labels: Labels
    chunks: Callable[[], Iterator[Images]]


@dataclass(frozen=True)
class Content:
    """Everything that is stored of a data set.

    Attributes:
        classes: Names of the K classes, in label order.
        train: Training images.
        test: Test images.
        note: What a reader had to decide by itself, for example how the test images were chosen.
    """

    classes: tuple[str, ...]
    train: Part
    test: Part
    note: str = ""


@dataclass(frozen=True)
class Source:
    """Where a data set lies, found but not read.

    Attributes:
        name: Short name, a part of the cache folder's name and of the seeds of its splits.
        files: The files whose paths, sizes and modification times identify the content.
        read: Reads the content, at an image size in pixels or at the files' own (None).
    """

    name: str
    files: tuple[Path, ...]
    read: Callable[[int | None], Content]


def from_array(images: Images, labels: Labels, size: int | None) -> Part:
    """A part that is in memory already; images are (n, H, W, C)."""

    def chunks() -> Iterator[Images]:
        from raydd.data.decode import resized

        for start in range(0, len(images), 1024):
            yield resized(images[start : start + 1024], size).transpose(0, 3, 1, 2)

    return Part(labels, chunks)


def checked_labels(labels: object, classes: int, origin: str, *, every: bool) -> Labels:
    """Labels as int64 (n,), each known to be one of 0..K-1.

    Args:
        labels: Any array of whole numbers (n,) or (n, 1).
        classes: K.
        origin: Where they come from, for the error.
        every: Whether each class must occur, as it must in training labels.

    Raises:
        ValueError: Labels that are not whole numbers, outside 0..K-1, or a class without an image.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.size == 0 or array.size != len(array):
        raise ValueError(
            f"{origin} has labels of type {array.dtype} and shape {array.shape}: give one whole number "
            "0..K-1 an image, for at least one image"
        )
    values = array.reshape(-1).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"{origin} has the label {wrong}: labels must be 0..{classes - 1}, one of {classes} classes")
    missing = np.flatnonzero(np.bincount(values, minlength=classes) == 0)
    if every and missing.size:
        raise ValueError(
            f"{origin} has no image of class {missing[0]}: number the classes 0..K-1 without a gap, "
            "with at least one training image each"
        )
    return values


def holdout(labels: Labels, fraction: float, *path: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A fixed stratified split of n images, the same in every run: (kept, held out), both sorted.

    Every class keeps at least one image; halves round up.

    Args:
        labels: Classes (n,).
        fraction: Part of each class that is held out, in [0, 1).
        *path: What the split is for, for example ``("validation", "digits")``.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(int(fraction * len(rows) + 0.5), len(rows) - 1)
        order = torch.randperm(len(rows), generator=generator(0, *path, int(label))).numpy()
        held[rows[order[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
