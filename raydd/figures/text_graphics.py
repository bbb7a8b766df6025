"""Pictures and curves in the characters of a terminal.

Shapes: `C H W` image, `h w` what is drawn of it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from rich.cells import set_cell_size
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.figures.frames import drawn_rows, pixels_of

SIDE = 16
MOST_CLASSES = 20
LINES_BESIDE = 7  # of the panel and what it says, and the line below it
UPPER = "▀"
LEVELS = "▁▂▃▄▅▆▇█"

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class Tiles:
    """Images (h, w, 3) side by side, as many in a row as there is room for, each below its name; a cell has two pixels.

    What a terminal is not high enough for is left out.
    """

    def __init__(self, images: Sequence[tuple[str, Pixels]]) -> None:
        self.images = images

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the cells, each with the colours of two pixels."""
        height, width = self.images[0][1].shape[:2]
        across = max(1, (options.max_width + 1) // (width + 1))
        down = max(1, (options.max_height - LINES_BESIDE) // (1 + -(-height // 2)))
        visible = self.images[: across * down]
        for start in range(0, len(visible), across):
            yield from _row(visible[start : start + across])


def _row(images: Sequence[tuple[str, Pixels]]) -> RenderResult:
    height, width = images[0][1].shape[:2]
    # names may be those of folders
    names = ("".join(sign if sign.isprintable() else "?" for sign in name) for name, _ in images)
    yield Segment(" ".join(set_cell_size(name, width) for name in names))
    yield Segment.line()
    for top in range(0, height, 2):
        for place, (_, pixels) in enumerate(images):
            if place:
                yield Segment(" ")
            lower = pixels[top + 1].tolist() if top + 1 < height else [None] * width
            for upper, below in zip(pixels[top].tolist(), lower, strict=True):
                yield Segment(UPPER, Style(color=Color.from_rgb(*upper), bgcolor=below and Color.from_rgb(*below)))
        yield Segment.line()


def tiles(synset: SyntheticSet) -> Tiles:
    """Return the first image of each of the first 20 classes, preprocessing undone, at most 16 pixels wide and high."""
    rows = drawn_rows(synset)[:MOST_CLASSES]
    names, images = synset.classes[: len(rows)], pixels_of(synset, [row[0] for row in rows])
    return Tiles([(name, small(image)) for name, image in zip(names, images, strict=True)])


def small(pixels: Tensor) -> Pixels:
    """Return an image (C, H, W) in [0, 1] as bytes (h, w, 3), its sides divided by the least whole number that does.

    >>> small(torch.full((1, 28, 28), 0.2)).shape, int(small(torch.full((1, 28, 28), 0.2)).max())
    ((14, 14, 3), 51)
    """
    height, width = pixels.shape[1:]
    factor = -(-max(height, width) // SIDE)
    if factor > 1:
        size = (max(1, height // factor), max(1, width // factor))
        pixels = torch.nn.functional.adaptive_avg_pool2d(pixels, size)
    array: Pixels = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    return array


def spark(values: Sequence[float], width: int = 40) -> str:
    """Return numbers as a line of blocks, of the mean of each part where there are more than its width.

    >>> spark([0.0, 1.0, 2.0, 7.0]), spark([3.0, 3.0]), spark([])
    ('▁▂▃█', '▁▁', '')
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return ""
    means = np.array([part.mean() for part in np.array_split(finite, min(width, len(finite)))])
    low, span = means.min(), np.ptp(means)
    places = np.zeros(len(means)) if span == 0 else (means - low) / span * (len(LEVELS) - 1)
    return "".join(LEVELS[int(place)] for place in places.round())
