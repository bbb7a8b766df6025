"""Differentiable siamese augmentation (DSA), in its two published variants.

An `Augment` draws a `View`: a plain function of images that gives the same bits whenever it is applied. One draw can
serve real and synthetic images, and a step that is computed again sees the same images. Operations are affine in them.

Shapes: `B` batch, `C H W` image, `n` rows of draws: B, or 1 for a siamese view.

Reference: Zhao & Bilen, arXiv 2102.08259 (``dsa``); Kim et al., arXiv 2205.14959 (``dsa_idc``).
Differs: Draws are float32 uniforms from the CPU, so that a view is the same on every device; their distributions are
    the official ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from raydd.numerics.rng import moved

View = Callable[[Tensor], Tensor]
"""A drawn, replayable augmentation: images (B, C, H, W) -> images (B, C, H, W)."""

Choose = Callable[[tuple[str, ...], torch.Generator], tuple[str, ...]]
"""Which of a strategy's operations run this time, in order."""

STRATEGY = "color_crop_cutout_flip_scale_rotate"

BRIGHTNESS = 1.0
SATURATION = 2.0
CONTRAST = 0.5
CROP = 0.125  # of the image's side
CUTOUT = 0.5  # of the image's side
FLIP = 0.5  # probability
SCALE = 1.2
ROTATE = 15.0  # degrees


def identity(x: Tensor) -> Tensor:
    """Return the images unchanged."""
    return x


class Augment(Protocol):
    """Draws augmentations of a batch."""

    @property
    def plain(self) -> bool:
        """Whether every view is the identity."""

    def draw(self, shape: torch.Size | tuple[int, ...], rng: torch.Generator) -> View:
        """Draw one augmentation of images (B, C, H, W) from ``rng`` alone."""


# Operations: (images (B, C, H, W), uniforms in [0, 1) (n, k)) -> images (B, C, H, W).


def color(x: Tensor, u: Tensor) -> Tensor:
    """Change brightness, then saturation, then contrast, by three uniforms a row."""
    bright, saturate, contrast = u.to(x.dtype)[:, :, None, None, None].unbind(1)
    x = x + (bright - 0.5) * BRIGHTNESS
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (saturate * SATURATION) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + CONTRAST) + mean


def crop(x: Tensor, u: Tensor) -> Tensor:
    """Shift by up to ``int(side * 0.125 + 0.5)`` pixels in each direction, zeros coming in."""
    channels, height, width = x.shape[1:]
    rows = _source(u[:, :1], height)
    columns = _source(u[:, 1:], width)
    pixels = (rows[:, :, None] * (width + 2) + columns[:, None, :]).flatten(1)
    padded = F.pad(x, (1, 1, 1, 1)).flatten(2)
    return padded.gather(2, pixels[:, None].expand(len(x), channels, -1)).view(x.shape)


def cutout(x: Tensor, u: Tensor) -> Tensor:
    """Zero a box of half the image's sides, which may reach over the border."""
    rows = _hole(u[:, :1], x.shape[2])
    columns = _hole(u[:, 1:], x.shape[3])
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def flip(x: Tensor, u: Tensor) -> Tensor:
    """Mirror left and right with probability 0.5."""
    return torch.where(u[:, :, None, None] < FLIP, x.flip(3), x)


def scale(x: Tensor, u: Tensor) -> Tensor:
    """Sample at coordinates stretched by factors in [1/1.2, 1.2], one for width and one for height."""
    factor = u.to(x.dtype) * (SCALE - 1 / SCALE) + 1 / SCALE
    return _resample(x, torch.diag_embed(factor))


def rotate(x: Tensor, u: Tensor) -> Tensor:
    """Sample at coordinates turned by an angle within 15 degrees."""
    angle = (u[:, 0].to(x.dtype) - 0.5) * 2 * math.radians(ROTATE)
    cos, sin = angle.cos(), angle.sin()
    return _resample(x, torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2))


def _integer(u: Tensor, count: int) -> Tensor:
    """Return uniforms in [0, 1) as integers in [0, count), whatever the images' dtype."""
    return (u * count).floor().long()


def _source(u: Tensor, side: int) -> Tensor:
    """The pixel of a padded side (n, side) that a crop shifted by u (n, 1) reads."""
    reach = int(side * CROP + 0.5)
    shift = _integer(u, 2 * reach + 1) - reach
    return (torch.arange(side, device=u.device) + shift).clamp(-1, side) + 1


def _hole(u: Tensor, side: int) -> Tensor:
    """Which pixels of a side (n, side) a cutout at u (n, 1) covers; an even size has one more position than an odd."""
    size = int(side * CUTOUT + 0.5)
    first = _integer(u, side + 1 - size % 2) - size // 2
    pixel = torch.arange(side, device=u.device)
    return (pixel >= first) & (pixel < first + size)


def _resample(x: Tensor, matrix: Tensor) -> Tensor:
    """Sample x bilinearly at mapped coordinates, zero outside; the matrix (n, 2, 2) acts on (x, y)."""
    theta = F.pad(matrix, (0, 1))
    grid = F.affine_grid(theta, [len(theta), *x.shape[1:]], align_corners=False)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False)


class Operation(NamedTuple):
    """One word of a strategy: the uniforms that it needs for each row, and the function that applies them."""

    uniforms: int
    apply: Callable[[Tensor, Tensor], Tensor]


OPERATIONS: dict[str, Operation] = {
    "color": Operation(3, color),
    "crop": Operation(2, crop),
    "cutout": Operation(2, cutout),
    "flip": Operation(1, flip),
    "scale": Operation(2, scale),
    "rotate": Operation(1, rotate),
}


@dataclass(frozen=True, eq=False)
class DrawnView:
    """Operations with their draws, applied in order.

    Attributes:
        steps: Each operation's name and its uniforms (n, k), float32 on the CPU.
        batch: The only batch size that the view fits; None fits any.
    """

    steps: tuple[tuple[str, Tensor], ...]
    batch: int | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the augmented images (B, C, H, W), on x's device and in its dtype."""
        if self.batch not in (None, len(x)):
            raise ValueError(f"a view of {self.batch} images was applied to {len(x)}: draw one of that size or siamese")
        for name, uniforms in self.steps:
            x = OPERATIONS[name].apply(x, moved(uniforms, x.device))
        return x


def rows_of(view: View, rows: slice) -> View:
    """Return the view of some rows of its batch, which changes each image as the view of the whole batch does."""
    if not isinstance(view, DrawnView) or view.batch is None:
        return view
    steps = tuple((name, uniforms[rows]) for name, uniforms in view.steps)
    return DrawnView(steps, len(range(view.batch)[rows]))


def nothing(words: tuple[str, ...], rng: torch.Generator) -> tuple[str, ...]:
    """Choose no operation, and draw nothing."""
    return ()


def one_of(words: tuple[str, ...], rng: torch.Generator) -> tuple[str, ...]:
    """Choose one operation, each with the same probability: arXiv 2102.08259 and the default mode of its code."""
    if not words:
        return ()
    return (words[int(torch.randint(len(words), (), generator=rng))],)


def flip_color_one_cutout(words: tuple[str, ...], rng: torch.Generator) -> tuple[str, ...]:
    """Choose, as far as the strategy has them, flip, color, one of the others (crop, scale, rotate), and cutout.

    Reference: The code of arXiv 2205.14959, whose constants are those of ``dsa``; TGDD uses it too.
    Differs: That code restarts its generator before every operation of a seeded call, so that siamese flip,
        brightness, saturation and contrast share one number. Here every number is a new draw.
    """
    middle = one_of(tuple(word for word in words if word not in ("flip", "color", "cutout")), rng)
    first = tuple(word for word in ("flip", "color") if word in words)
    return (*first, *middle, *(("cutout",) if "cutout" in words else ()))


@dataclass(frozen=True)
class StrategyAugment:
    """Draws operations of a strategy by a rule.

    Attributes:
        choose: Which operations run, in order.
        words: The strategy: keys of `OPERATIONS`.
        siamese: Take one draw for all samples, so that a view fits any batch; else a draw for each sample.
    """

    choose: Choose
    words: tuple[str, ...]
    siamese: bool

    @property
    def plain(self) -> bool:
        """Whether every view is the identity."""
        return self.choose is nothing or not self.words

    def draw(self, shape: torch.Size | tuple[int, ...], rng: torch.Generator) -> View:
        """Draw one augmentation of images (B, C, H, W); of the shape, only B counts."""
        names = self.choose(self.words, rng)
        if not names:
            return identity
        rows = 1 if self.siamese else shape[0]
        uniforms = [torch.rand(rows, OPERATIONS[name].uniforms, generator=rng, dtype=torch.float32) for name in names]
        return DrawnView(tuple(zip(names, uniforms, strict=True)), None if self.siamese else rows)


AUGMENTS: dict[str, Callable[[tuple[str, ...], bool], Augment]] = {
    "none": partial(StrategyAugment, nothing),
    "dsa": partial(StrategyAugment, one_of),
    "dsa_idc": partial(StrategyAugment, flip_color_one_cutout),
}


def augment(name: str, *, flip: bool = True, siamese: bool = False, strategy: str | None = None) -> Augment:
    """Return an augmentation by name.

    Args:
        name: A key of `AUGMENTS`: ``none``, ``dsa`` (one operation of the strategy a draw) or ``dsa_idc`` (flip and
            color, one of crop, scale and rotate, then cutout).
        flip: Whether images may be mirrored; False removes flip from the strategy (digits).
        siamese: Take one draw for all samples; the view then fits batches of any size.
        strategy: Operations joined by ``_``; None takes all six.

    Raises:
        ValueError: The name, or a word of the strategy, is unknown.

    >>> rng = torch.Generator().manual_seed(0)
    >>> view = augment("dsa", siamese=True, strategy="crop").draw((2, 3, 32, 32), rng)
    >>> x = torch.rand(5, 3, 32, 32, generator=rng)
    >>> view(x).shape, bool((view(x) == view(x)).all())
    (torch.Size([5, 3, 32, 32]), True)
    """
    if name not in AUGMENTS:
        raise ValueError(f"unknown augmentation {name!r}; use {', '.join(AUGMENTS)}")
    words = tuple((STRATEGY if strategy is None else strategy).split("_"))
    for word in words:
        if word not in OPERATIONS:
            raise ValueError(f"unknown operation {word!r} in strategy {strategy!r}; use {', '.join(OPERATIONS)}")
    return AUGMENTS[name](tuple(word for word in words if flip or word != "flip"), siamese)
