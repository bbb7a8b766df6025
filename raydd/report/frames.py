"""A run's synthetic images on a page: by class, through the outer steps, each with its label.

All images of a step lie in one picture, of which every image shows its part: a slider changes them all at once.

Shapes: `N` images, `K` classes, `H W` of an image.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from PIL import Image

from raydd.data.synset import SyntheticSet
from raydd.figures.frames import (
    FOLDER,
    INDEX,
    REMAKE,
    Frames,
    drawn_rows,
    frame_path,
    frame_steps,
    limits,
    rows_picture,
)
from raydd.figures.synset_picture import arrange, png_of
from raydd.io.document import read_document
from raydd.report.folder import RunFolder
from raydd.report.html import Section, macros, png_address

MOST_BYTES = 12_000_000  # of all frames on a page
LIKELIEST = 5
BESIDE = 10
MOST_BESIDE = 20  # classes that stand beside each other


class Stop(NamedTuple):
    """A stop of the slider."""

    step: int | None  # the outer step; None of a result whose step is not known
    words: str  # the text beside the slider
    png: bytes  # all images as one picture

    @property
    def address(self) -> str:
        """The picture's data URI."""
        return png_address(self.png)


@dataclass(frozen=True)
class ImageGrid:
    """The pictures of a run, with the place and the label of each image."""

    columns: int  # images beside each other
    classes: tuple[str, ...]  # names, one a row
    size: tuple[int, int]  # (H, W) of an image
    stops: tuple[Stop, ...]  # the pictures, oldest first
    # by (row, column) the image's label: (class, share) pairs, likeliest first; of a class alone one pair
    labels: dict[tuple[int, int], list[tuple[str, str]]]
    left_out: int = 0  # how many frames were left out for their size

    @property
    def id(self) -> str:
        """The id of the picture on the page."""
        return f"frame-{hashlib.sha256(self.stops[-1].png + repr(len(self.stops)).encode()).hexdigest()[:12]}"

    @property
    def json(self) -> Markup:
        """The stops for the page's script."""
        return htmlsafe_json_dumps([{"words": stop.words, "address": stop.address} for stop in self.stops])


def image_section(run: RunFolder) -> Section:
    """Return the images of a run by class, with a slider where it kept frames."""
    grid, synset = read_images(run), run.synset
    if grid is None:
        return Section("images", "Synthetic images", macros("images").missing())
    drawn = 0 if synset is None else sum(map(len, members_of(synset)))
    return Section("images", "Synthetic images", macros("images").section(run, grid, drawn, LIKELIEST))


def read_images(run: RunFolder) -> ImageGrid | None:
    """Read the pictures of a run; None where there is no image."""
    index = run.path / FOLDER / INDEX
    frames = read_document(index, Frames, REMAKE) if run.folder and index.is_file() else None
    stops, left_out = _frames(run.path, frames, run.setting("steps")) if frames else ([], 0)
    synset = run.synset
    if synset is None:
        if frames is None or not stops:
            return None
        return ImageGrid(frames.columns, frames.classes, frames.size, tuple(stops), {}, left_out)
    size = (int(synset.images.shape[2]), int(synset.images.shape[3]))
    members = members_of(synset)
    columns = max(1, *(len(rows) for rows in members))
    classes = tuple(synset.classes[: len(members)])
    if frames and (frames.columns, frames.size, frames.classes) != (columns, size, classes):
        stops = []  # of another set than the result
    stops = _with_result(stops, png_of(rows_picture(synset, members)), run)
    return ImageGrid(columns, classes, size, tuple(stops), _labels(synset, members), left_out)


def members_of(synset: SyntheticSet) -> list[list[int]]:
    """Return the numbers of the images that are drawn, of each class that is drawn.

    A set that raydd distilled is in class order, and an image keeps its row whatever its soft label has become. In
    others a soft label counts by its largest logit.
    """
    labels, classes = synset.hard_labels.cpu(), len(synset.classes)
    own = torch.arange(classes).repeat_interleave(len(labels) // classes)
    if len(own) == len(labels) and 2 * int((labels == own).sum()) > len(labels):
        return drawn_rows(synset)
    rows, most = limits(synset)
    return [torch.nonzero(labels == label).flatten()[:most].tolist() for label in range(rows)]


def compact(grid: ImageGrid) -> bytes:
    """Return the last picture in a compact form: a column a class, or rows of ten of one image each."""
    whole, (height, width), count = Image.open(io.BytesIO(grid.stops[-1].png)), grid.size, len(grid.classes)
    turned = grid.columns > 1 and count <= MOST_BESIDE
    across = BESIDE if grid.columns == 1 else count if turned else grid.columns
    places = [(row, column) for row in range(count) for column in range(grid.columns)]
    places = sorted(places, key=lambda place: place[::-1]) if turned else places
    boxes = [(column * width, row * height, (column + 1) * width, (row + 1) * height) for row, column in places]
    images = {divmod(at, across): whole.crop(box) for at, box in enumerate(boxes)}
    shape = -(-len(boxes) // across), min(across, len(boxes))
    return png_of(arrange(images, shape, 1 + max(height, width) // 32))


def _frames(folder: Path, frames: Frames, last: int | None) -> tuple[list[Stop], int]:
    """Return the pictures of a run's frames, as many evenly spread ones as a page can hold."""
    of = "" if last is None else f" of {last}"
    stops = []
    for step in frames.steps:
        if not frame_path(folder, step).exists():  # a run that goes back removes it before it makes it again
            continue
        size = frames.columns * frames.size[1], len(frames.classes) * frames.size[0]
        stops.append(Stop(step, f"step {step}{of}", _whole_png(frame_path(folder, step), size)))
    total = sum(len(stop.png) for stop in stops)
    most = max(2, len(stops) * MOST_BYTES // max(total, 1))
    if most >= len(stops):
        return stops, 0
    chosen = frame_steps(len(stops) - 1, most)
    return [stops[place] for place in chosen], len(stops) - len(chosen)


def _whole_png(file: Path, size: tuple[int, int]) -> bytes:
    """Return a picture's bytes, which must be whole and of this (width, height)."""
    try:
        png = file.read_bytes()
        image = Image.open(io.BytesIO(png), formats=["PNG"])
        if image.size != size:
            raise ValueError(f"{image.size} pixels instead of {size}")
        image.verify()
    except (OSError, ValueError, SyntaxError) as error:  # the last is Pillow's word for a broken file
        raise ValueError(f"{file} is damaged ({error}); {REMAKE}") from None
    return png


def _with_result(stops: list[Stop], png: bytes, run: RunFolder) -> list[Stop]:
    """Return the frames and, as the last of them or behind it, the result."""
    result = Stop(run.result_step, f"the result, {run.result_words}", png)
    return [*(stops[:-1] if stops and _same(stops[-1].png, png) else stops), result]


def _same(first: bytes, second: bytes) -> bool:
    one, other = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in (first, second))
    return np.array_equal(one, other)


def _labels(synset: SyntheticSet, members: Sequence[Sequence[int]]) -> dict[tuple[int, int], list[tuple[str, str]]]:
    places = {(row, at): index for row, images in enumerate(members) for at, index in enumerate(images)}
    if synset.label_kind == "hard":
        return {place: [(synset.classes[place[0]], "100.0 %")] for place in places}
    shares, order = (
        columns[:, :LIKELIEST].tolist() for columns in synset.targets.double().sort(dim=1, descending=True, stable=True)
    )
    return {
        place: [
            (synset.classes[label], f"{share:.2f}" if synset.regression else f"{100 * share:.1f} %")
            for label, share in zip(order[index], shares[index], strict=True)
        ]
        for place, index in places.items()
    }
