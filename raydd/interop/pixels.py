"""Convert a network's input to pixels whose preprocessing gives the same bits."""

import torch
from torch import Tensor

from raydd.data.preprocessing import Transform

ELEMENTWISE = ("normalise", "raw01")
"""Preprocessing that maps every pixel by itself, and increases with it."""
BISECTIONS = 40


def to_pixels(transform: Transform, images: Tensor) -> tuple[Tensor, list[str]]:
    """Return pixels (N, C, H, W) float32 whose preprocessing gives the images again, and notes on exceptions.

    Of the float32 numbers for a pixel, a multiple of 1/255 comes first, then one in [0, 1]. If there is none, the
    nearest is used: a network's input of 0 is the mean, and float32 is finer near 0 than there. Nothing is clamped.
    """
    guess = transform.inverse(images.double()).float()
    bytes_ = (guess * 255).round() / 255
    if transform.kind in ELEMENTWISE:
        pixels = _bisected(transform, images, guess)
        for better in (guess.clamp(0, 1), bytes_):
            pixels = torch.where(transform(better) == images, better, pixels)
    else:  # every pixel depends on all: images of bytes are exact, others are rounded
        pixels = bytes_ if torch.equal(transform(bytes_), images) else guess
    notes = []
    if count := int(((pixels < 0) | (pixels > 1)).sum()):
        low, high = float(pixels.min()), float(pixels.max())
        notes.append(f"{count} of {pixels.numel()} pixels lie outside [0, 1] ({low:.3g} to {high:.3g}), written so")
    return pixels, notes + loss_note("as float32 pixels", transform(pixels), images)


def _bisected(transform: Transform, images: Tensor, guess: Tensor) -> Tensor:
    """Return the smallest float32 that is not below an image's preimage, or its lower neighbour if that is nearer.

    Rounded subtraction and division are monotonic, so halving an interval finds an exact preimage if there is one;
    the few neighbours of the inverse miss some near 0, where float32 is finer than the mean.
    """
    room = (guess.abs() + 1) * 1e-6
    low, high = guess - room, guess + room
    for _ in range(BISECTIONS):
        middle = low + (high - low) / 2
        below = transform(middle) < images
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    nearer = (transform(low) - images).abs() < (transform(high) - images).abs()
    return torch.where(nearer, low, high)


def to_bytes(transform: Transform, images: Tensor) -> tuple[Tensor, list[str]]:
    """Return pixels (N, C, H, W) uint8, clamped and rounded, and a note on the loss."""
    pixels = as_bytes(transform.inverse(images))
    return pixels, loss_note("as 8-bit pixels", transform(pixels), images)


def as_bytes(pixels: Tensor) -> Tensor:
    """Return pixels in [0, 1], clamped, as uint8.

    >>> as_bytes(torch.tensor([-1.0, 0.2, 2.0])).tolist()
    [0, 51, 255]
    """
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def loss_note(how: str, actual: Tensor, wanted: Tensor) -> list[str]:
    """Return a note on the largest difference, if there is one."""
    wrong = actual != wanted
    if not wrong.any():
        return []
    error = float((actual.double() - wanted.double()).abs().max())
    return [f"{how}, {int(wrong.sum())} of {wrong.numel()} numbers change, by {error:.3g} at most"]
