"""Pictures of a run's synthetic images: its frames, its result, and what lies where in them.

Shapes: `N` images, `K` classes, `H W` of an image.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from raydd.data.synset import SyntheticSet
from raydd.figures.frames import FOLDER, INDEX, MOST_IMAGES, MOST_PIXELS, REMAKE, Frames, frame_path, layout, pixels_of
from raydd.figures.synset_picture import to_image
from raydd.report.documents import read_document
from raydd.report.folder import RunFolder
from raydd.report.html import png_size

MOST_BYTES = 12_000_000  # of all frames on a page
LIKELIEST = 5
BESIDE = 10
MOST_BESIDE = 20  # classes that stand beside each other


class Stop(NamedTuple):
    """A place of the slider.

    Attributes:
        step: The outer step; None of a result whose step is not known.
        words: What is written beside the slider.
        png: All images as one picture.
    """

    step: int | None
    words: str
    png: bytes


@dataclass(frozen=True)
class Sheet:
    """What lies where in the pictures of a run.

    Attributes:
        columns: Images beside each other.
        classes: Names, one a row.
        size: (H, W) of an image.
        stops: The pictures, oldest first.
        labels: By (row, column) the image's label: (class, share) pairs, likeliest first; of a class alone one pair.
        left_out: How many frames were left out for their size.
    """

    columns: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    stops: tuple[Stop, ...]
    labels: dict[tuple[int, int], list[tuple[str, float]]]
    left_out: int = 0


def read_sheet(run: RunFolder) -> Sheet | None:
    """What there is to show of a run; None where there is no image."""
    index = run.path / FOLDER / INDEX
    frames = read_document(index, Frames, REMAKE) if run.folder and index.is_file() else None
    stops, left_out = _frames(run.path, frames, run.setting("steps")) if frames else ([], 0)
    synset = run.synset
    if synset is None:
        if frames is None or not stops:
            return None
        return Sheet(frames.columns, frames.classes, frames.size, tuple(stops), {}, left_out)
    size = (int(synset.images.shape[2]), int(synset.images.shape[3]))
    members = members_of(synset)
    columns = max(1, *(len(rows) for rows in members))
    classes = tuple(synset.classes[: len(members)])
    if frames and (frames.columns, frames.size, frames.classes) != (columns, size, classes):
        stops = []  # of another set than the result
    stops = _with_result(stops, result_picture(synset, members, columns), run)
    return Sheet(columns, classes, size, tuple(stops), _labels(synset, members), left_out)


def members_of(synset: SyntheticSet) -> list[list[int]]:
    """Of each shown class the images that are shown, by number.

    A set that raydd distilled is in class order, and an image keeps its row whatever its soft label has become. In
    others a soft label counts by its largest logit.
    """
    labels, shown = synset.hard_labels.cpu(), layout(synset)
    if shown.of * len(synset.classes) == len(labels):
        own = torch.arange(len(synset.classes)).repeat_interleave(shown.of)
        if 2 * int((labels == own).sum()) > len(labels):
            places = shown.places()
            return [places[row * shown.images : (row + 1) * shown.images] for row in range(shown.classes)]
    most = min(MOST_IMAGES, max(1, MOST_PIXELS // (shown.classes * shown.height * shown.width)))
    return [torch.nonzero(labels == label).flatten()[:most].tolist() for label in range(shown.classes)]


def result_picture(synset: SyntheticSet, members: Sequence[Sequence[int]], columns: int) -> bytes:
    """A row a class as in a frame, white where no image is, as a PNG."""
    pixels = iter(pixels_of(synset, [number for images in members for number in images]))
    channels, height, width = (int(size) for size in synset.images.shape[1:])
    canvas = torch.ones(channels, len(members) * height, columns * width)
    for row, images in enumerate(members):
        for column in range(len(images)):
            top, left = row * height, column * width
            canvas[:, top : top + height, left : left + width] = next(pixels)
    data = io.BytesIO()
    to_image(canvas).save(data, format="PNG")
    return data.getvalue()


def compact(sheet: Sheet) -> bytes:
    """The last picture of a sheet for a small place: a column a class, or rows of ten where it has one image each."""
    whole, (height, width), count = Image.open(io.BytesIO(sheet.stops[-1].png)), sheet.size, len(sheet.classes)
    turned = sheet.columns > 1 and count <= MOST_BESIDE
    across = BESIDE if sheet.columns == 1 else count if turned else sheet.columns
    places = [(row, column) for row in range(count) for column in range(sheet.columns)]
    places = sorted(places, key=lambda place: place[::-1]) if turned else places
    gap = 1 + max(height, width) // 32
    size = (min(across, len(places)), -(-len(places) // across))
    canvas = Image.new(whole.mode, (size[0] * (width + gap) - gap, size[1] * (height + gap) - gap), "white")
    for place, (row, column) in enumerate(places):
        part = whole.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
        canvas.paste(part, (place % across * (width + gap), place // across * (height + gap)))
    data = io.BytesIO()
    canvas.save(data, format="PNG")
    return data.getvalue()


def _frames(folder: Path, frames: Frames, last: int | None) -> tuple[list[Stop], int]:
    """The pictures of a run's frames, of which as many evenly spread ones are taken as a page can hold."""
    of = "" if last is None else f" of {last}"
    found = []
    for step in frames.steps:
        if not frame_path(folder, step).exists():  # a run that goes back removes it before it makes it again
            continue
        size = frames.columns * frames.size[1], len(frames.classes) * frames.size[0]
        found.append(Stop(step, f"step {step}{of}", _whole_png(frame_path(folder, step), size)))
    total = sum(len(stop.png) for stop in found)
    most = max(2, len(found) * MOST_BYTES // max(total, 1))
    if most >= len(found):
        return found, 0
    kept = sorted({round(place * (len(found) - 1) / (most - 1)) for place in range(most)})
    return [found[place] for place in kept], len(found) - len(kept)


def _whole_png(file: Path, size: tuple[int, int]) -> bytes:
    """A picture's bytes, which must be whole and (width, height) of this size."""
    try:
        png = file.read_bytes()
        if png_size(png) != size:
            raise ValueError(f"{png_size(png)} pixels instead of {size}")
        Image.open(io.BytesIO(png)).verify()
    except (OSError, ValueError, SyntaxError) as error:  # the last is Pillow's word for a broken file
        raise ValueError(f"{file} is damaged ({error}); {REMAKE}") from None
    return png


def _with_result(stops: list[Stop], png: bytes, run: RunFolder) -> list[Stop]:
    """The frames and, as the last of them or behind it, the result."""
    result = Stop(run.result_step, f"the result, {run.result_words}", png)
    return [*(stops[:-1] if stops and _same(stops[-1].png, png) else stops), result]


def _same(first: bytes, second: bytes) -> bool:
    one, other = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in (first, second))
    return np.array_equal(one, other)


def _labels(synset: SyntheticSet, members: Sequence[Sequence[int]]) -> dict[tuple[int, int], list[tuple[str, float]]]:
    if synset.label_kind == "hard":
        return {
            (row, at): [(synset.classes[row], 1.0)] for row, found in enumerate(members) for at in range(len(found))
        }
    shares, order = synset.targets.double().sort(dim=1, descending=True, stable=True)
    return {
        (row, at): [
            (synset.classes[label], share)
            for label, share in zip(
                order[number, :LIKELIEST].tolist(), shares[number, :LIKELIEST].tolist(), strict=True
            )
        ]
        for row, found in enumerate(members)
        for at, number in enumerate(found)
    }
