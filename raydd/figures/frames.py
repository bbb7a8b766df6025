"""A distillation as pictures: the set at about 20 outer steps, ``frames/step-000050.png`` of a run folder.

A frame has a row a class and a column an image, without gaps, at the images' own size. ``frames/frames.json`` says
what is where. An image keeps its place whatever its soft label has become.

Shapes: `H W` image, `K` classes.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.figures.synset_picture import arrange, save_png, to_image
from raydd.io.document import Document, dump_document, read_tree
from raydd.io.files import write_atomic

FOLDER = "frames"
INDEX = "frames.json"
REMAKE = "distill the run again, or remove its folder frames"
COUNT = 20
MOST_CLASSES = 100
MOST_IMAGES = 10
MOST_PIXELS = 1 << 21
_NAME = re.compile(r"step-(\d{6,})\.png")


class Frames(Document):
    """``frames/frames.json``: what the pictures beside it show."""

    columns: int  # images beside each other, those of a class
    classes: tuple[str, ...]  # names, one a row
    size: tuple[int, int]  # (H, W) of an image
    steps: tuple[int, ...]  # outer steps, a picture each


class Layout(NamedTuple):
    """What a frame shows of a set, whose images are in class order."""

    classes: int  # the first so many
    images: int  # the first so many of each
    of: int  # stored images a class
    height: int  # of an image, in pixels
    width: int  # of an image, in pixels

    def indices(self) -> list[int]:
        """Return the indices of the images that are drawn, row by row."""
        return [row * self.of + column for row in range(self.classes) for column in range(self.images)]


def layout(synset: SyntheticSet) -> Layout:
    """Return how much of a set is drawn: 100 classes, 10 images each, and fewer where these make 2 million pixels."""
    height, width = synset.images.shape[2:]
    of = len(synset.images) // len(synset.classes)
    classes = min(len(synset.classes), MOST_CLASSES, max(1, MOST_PIXELS // (height * width)))
    return Layout(classes, min(of, MOST_IMAGES, max(1, MOST_PIXELS // (classes * height * width))), of, height, width)


def pixels_of(synset: SyntheticSet, indices: list[int]) -> Tensor:
    """Return some images of a set as pictures (n, C, H, W) in [0, 1], on the CPU; the others are not decoded."""
    chosen = torch.tensor(indices, dtype=torch.long, device=synset.images.device)
    return replace(synset, images=synset.images.detach()[chosen], labels=synset.labels[chosen]).pixels().cpu()


def frame_steps(steps: int, count: int = COUNT) -> tuple[int, ...]:
    """Return the outer steps of a run at which frames are written: evenly spread, 0 and the last among them.

    >>> frame_steps(150, 4), frame_steps(2)
    ((0, 50, 100, 150), (0, 1, 2))
    """
    return tuple(sorted({round(steps * part / (count - 1)) for part in range(count)}))


def frame(synset: SyntheticSet) -> Image.Image:
    """Return a set as a picture with a row a class and a column an image, preprocessing undone, mosaics whole."""
    drawn = layout(synset)
    images = map(to_image, pixels_of(synset, drawn.indices()))
    places = {divmod(at, drawn.images): image for at, image in enumerate(images)}
    return arrange(places, (drawn.classes, drawn.images))


def frame_path(folder: Path, step: int) -> Path:
    """Return the path of the frame of an outer step in a run folder."""
    return folder / FOLDER / f"step-{step:06d}.png"


def frame_paths(folder: Path) -> dict[int, Path]:
    """Return the frames of a run folder by outer step, ascending."""
    matches = ((_NAME.fullmatch(path.name), path) for path in (folder / FOLDER).glob("step-*.png"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def save_frame(folder: Path, step: int, synset: SyntheticSet) -> Path:
    """Write the frame of an outer step, and the index."""
    path = save_png(frame(synset), frame_path(folder, step))
    drawn = layout(synset)
    content = {"columns": drawn.images, "classes": list(synset.classes[: drawn.classes])}
    content |= {"size": [drawn.height, drawn.width], "images_a_class": drawn.images, "of": drawn.of}
    _write_index(folder, content)
    return path


def drop_frames(folder: Path, step: int) -> None:
    """Remove the frames of later outer steps than one, to which a run has gone back."""
    for later, path in frame_paths(folder).items():
        if later > step:
            path.unlink()
    index = folder / FOLDER / INDEX
    if index.exists():
        _write_index(folder, read_tree(index, Frames, REMAKE)[1])


def _write_index(folder: Path, drawn: dict[str, object]) -> None:
    path = folder / FOLDER / INDEX
    content = dump_document(drawn | {"steps": [*frame_paths(folder)]})
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)
