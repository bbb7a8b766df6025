"""A distillation as pictures: the set at about 20 outer steps, ``frames/step-000050.png`` of a run folder.

A frame has a row a class and a column an image, without gaps, at the images' own size. ``frames/frames.json`` says
what is where. An image keeps its place whatever its soft label has become.

Shapes: `H W` image, `K` classes.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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


def limits(synset: SyntheticSet) -> tuple[int, int]:
    """Return how many classes, and images of each, are drawn: 100 and 10, or fewer that make 2 million pixels."""
    pixels = synset.images[0, 0].numel()
    classes = min(len(synset.classes), MOST_CLASSES, max(1, MOST_PIXELS // pixels))
    return classes, min(MOST_IMAGES, max(1, MOST_PIXELS // (classes * pixels)))


def drawn_rows(synset: SyntheticSet) -> list[list[int]]:
    """Return the indices of the images that are drawn, a row a class, of a set whose images are in class order."""
    classes, images = limits(synset)
    of = len(synset.images) // len(synset.classes)
    return [list(range(row * of, row * of + min(of, images))) for row in range(classes)]


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
    return rows_picture(synset, drawn_rows(synset))


def rows_picture(synset: SyntheticSet, rows: Sequence[Sequence[int]]) -> Image.Image:
    """Return a picture of rows of images, given by their indices; it is white where a row is shorter than others."""
    places = {(row, column): image for row, images in enumerate(rows) for column, image in enumerate(images)}
    images = map(to_image, pixels_of(synset, list(places.values())))
    return arrange(dict(zip(places, images, strict=True)), (len(rows), max(1, *map(len, rows))))


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
    rows, of = drawn_rows(synset), len(synset.images) // len(synset.classes)
    content = {"columns": len(rows[0]), "classes": list(synset.classes[: len(rows)])}
    content |= {"size": list(synset.images.shape[2:]), "images_a_class": len(rows[0]), "of": of}
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
