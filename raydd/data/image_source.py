"""What a reader of image files hands to the cache: labelled images, a chunk at a time.

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


def _as_they_are(images: NDArray[Any]) -> Images:
    return images


class Form(NamedTuple):
    """What images are stored as, where it is not as the files have them.

    Attributes:
        size: Side in pixels that they are resized and cropped to; None keeps theirs.
        channels: 1 (grey) or 3 (RGB); None keeps theirs.
    """

    size: int | None = None
    channels: int | None = None


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
        findings: What decoding finds.
    """

    classes: tuple[str, ...]
    train: Part
    test: Part
    note: str = ""
    findings: "Findings | None" = None

    def finish(self) -> str:
        """All notes in one line, once both parts are decoded.

        Raises:
            ValueError: Images cannot be read.
        """
        notes = (self.note, self.findings.finish() if self.findings else "")
        return "; ".join(note for note in notes if note)


@dataclass(frozen=True)
class Source:
    """Where a data set lies, found but not read.

    Attributes:
        name: Short name, a part of the cache folder's name and of the seeds of its splits.
        files: The files whose paths, sizes and modification times identify the content.
        read: Reads the content in a form.
    """

    name: str
    files: tuple[Path, ...]
    read: Callable[[Form], Content]


def from_array(images: NDArray[Any], labels: Labels, form: Form, to_bytes: Bytes = _as_they_are) -> Part:
    """A part that is in memory already.

    Args:
        images: (n, H, W, C).
        labels: (n,).
        form: What is stored.
        to_bytes: Makes 0..255 of the numbers of a chunk.
    """

    def chunks() -> Iterator[Images]:
        from raydd.data.decode import reshaped

        for start in range(0, len(images), 1024):
            yield reshaped(to_bytes(images[start : start + 1024]), form).transpose(0, 3, 1, 2)

    return Part(labels, chunks)


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
