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
from raydd.figures.synset_picture import save_png, to_image
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
    """``frames/frames.json``: what the pictures beside it show.

    Attributes:
        columns: Images beside each other, those of a class.
        classes: Names, one a row.
        size: (H, W) of an image.
        steps: Outer steps, a picture each.
    """

    columns: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    steps: tuple[int, ...]


class Layout(NamedTuple):
    """What a frame shows of a set, whose images are in class order.

    Attributes:
        classes: The first so many.
        images: The first so many of each.
        of: Stored images a class.
        height: Of an image, in pixels.
        width: Of an image, in pixels.
    """

    classes: int
    images: int
    of: int
    height: int
    width: int

    def places(self) -> list[int]:
        """The places in the set of the images that are shown, row by row."""
        return [row * self.of + column for row in range(self.classes) for column in range(self.images)]


def layout(synset: SyntheticSet) -> Layout:
    """As much as is shown of a set: 100 classes, 10 images each, and fewer where these make 2 million pixels."""
    height, width = synset.images.shape[2:]
    of = len(synset.images) // len(synset.classes)
    classes = min(len(synset.classes), MOST_CLASSES, max(1, MOST_PIXELS // (height * width)))
    return Layout(classes, min(of, MOST_IMAGES, max(1, MOST_PIXELS // (classes * height * width))), of, height, width)


def pixels_of(synset: SyntheticSet, places: list[int]) -> Tensor:
    """Some images of a set as pictures (n, C, H, W) in [0, 1], on the CPU; the others are not decoded."""
    chosen = torch.tensor(places, dtype=torch.long, device=synset.images.device)
    return replace(synset, images=synset.images.detach()[chosen], labels=synset.labels[chosen]).pixels().cpu()


def frame_steps(steps: int, count: int = COUNT) -> tuple[int, ...]:
    """The outer steps of a run at which frames are made: evenly spread, 0 and the last among them.

    >>> frame_steps(150, 4), frame_steps(2)
    ((0, 50, 100, 150), (0, 1, 2))
    """
    return tuple(sorted({round(steps * part / (count - 1)) for part in range(count)}))


def frame(synset: SyntheticSet) -> Image.Image:
    """A set as a picture with a row a class and a column an image, preprocessing undone; mosaics are drawn whole."""
    drawn = layout(synset)
    rows = pixels_of(synset, drawn.places()).unflatten(0, (drawn.classes, drawn.images))  # (K, n, C, H, W)
    return to_image(rows.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2))


def frame_path(folder: Path, step: int) -> Path:
    """Where a run folder holds the frame of an outer step."""
    return folder / FOLDER / f"step-{step:06d}.png"


def frame_paths(folder: Path) -> dict[int, Path]:
    """The frames that a run folder holds, by outer step, ascending; empty where it holds none."""
    matches = ((_NAME.fullmatch(path.name), path) for path in (folder / FOLDER).glob("step-*.png"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def save_frame(folder: Path, step: int, synset: SyntheticSet) -> Path:
    """Write the frame of an outer step, and what it shows."""
    path = save_png(frame(synset), frame_path(folder, step))
    drawn = layout(synset)
    _write_index(
        folder,
        {
            "columns": drawn.images,
            "classes": list(synset.classes[: drawn.classes]),
            "size": [drawn.height, drawn.width],
            "images_a_class": drawn.images,
            "of": drawn.of,
        },
    )
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
