"""The interface between readers of image files and the cache: labelled images, a chunk at a time.

Shapes: `n` images of a part, `b` images of a chunk, `C H W` image, `K` classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from raydd.numerics.rng import generator

if TYPE_CHECKING:
    from raydd.data.decode import Findings

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Bytes = Callable[[NDArray[Any]], Images]


class Form(NamedTuple):
    """The size and channels of stored images, if they differ from those of the files."""

    size: int | None = None  # side in pixels that they are resized and cropped to; None keeps theirs
    channels: int | None = None  # 1 (grey) or 3 (RGB); None keeps theirs


@dataclass(frozen=True)
class Part:
    """The training or the test images, not yet decoded.

    Attributes:
        labels: Classes (n,).
        chunks: Yields the images in the labels' order, as arrays (b, C, H, W) of n images in all.
    """

    labels: Labels
    chunks: Callable[[], Iterator[Images]]


@dataclass(frozen=True)
class Content:
    """The stored content of a data set.

    Attributes:
        classes: Names of the K classes, in label order.
        train: Training images.
        test: Test images.
        note: Decisions of the reader, for example how it chose the test images.
        findings: Those of the decoder.
    """

    classes: tuple[str, ...]
    train: Part
    test: Part
    note: str = ""
    findings: "Findings | None" = None

    def finish(self) -> str:
        """Return all notes in one line, once both parts are decoded; refuse images that cannot be read."""
        notes = (self.note, self.findings.finish() if self.findings else "")
        return "; ".join(note for note in notes if note)


@dataclass(frozen=True)
class Source:
    """The files of a data set.

    Attributes:
        name: A short name; part of the cache folder's name and of the seeds of the splits.
        files: The files whose paths, sizes and modification times identify the content.
        read: Reads the content in a form.
    """

    name: str
    files: tuple[Path, ...]
    read: Callable[[Form], Content]


def from_array(images: NDArray[Any], labels: Labels, form: Form, to_bytes: Bytes = np.asarray) -> Part:
    """Return a part of images (n, H, W, C) in memory and labels (n,); ``to_bytes`` makes a chunk's numbers 0..255."""

    def chunks() -> Iterator[Images]:
        from raydd.data.decode import convert

        for start in range(0, len(images), 1024):
            yield convert(to_bytes(images[start : start + 1024]), form).transpose(0, 3, 1, 2)

    return Part(labels, chunks)


def holdout(labels: Labels, fraction: float, *path: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split n images into (remaining, held out), both sorted: stratified, and the same in every run.

    Every class keeps at least one image; halves round up. ``path`` names the split: ``("validation", "digits")``.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(int(fraction * len(rows) + 0.5), len(rows) - 1)
        order = torch.randperm(len(rows), generator=generator(0, *path, int(label))).numpy()
        held[rows[order[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
