"""Encoded images -> uint8 arrays of one size and one number of channels."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydd.config.schema import MAX_SIDE
from raydd.data.image_source import Form, Labels, Part
from raydd.data.picture import Unreadable, decoding, header, quiet

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 128
CHUNK_BYTES = 16 << 20
NAMED = 3
REMEDY = "give one size for all images, for example --set data.size=64"


class Blob(NamedTuple):
    """One encoded image: its name, for errors, and a function that reads its bytes."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Findings:
    """The results of decoding images beside their pixels."""

    failed: dict[str, str] = field(default_factory=dict)  # names of the images that cannot be read, with the reason
    notes: Counter[str] = field(default_factory=Counter)  # decisions of the decoder, and the number of their images

    def finish(self) -> str:
        """Return the notes in one line, once all images are decoded; refuse images that cannot be read."""
        named = [f"{name} ({reason})" for name, reason in islice(self.failed.items(), NAMED)]
        if len(self.failed) == 1:
            raise ValueError(f"{named[0].replace(' (', ' is not a readable image (', 1)}: repair or remove it")
        if self.failed:
            raise ValueError(
                f"{len(self.failed)} images are not readable, such as {', '.join(named)}: repair or remove them"
            )
        return "; ".join(
            f"{note} ({count} image{'s' if count > 1 else ''})" for note, count in sorted(self.notes.items())
        )


@dataclass(frozen=True)
class Decoder:
    """The decoder of a data set's images; call `Findings.finish` at the end."""

    channels: int  # 1 for grey images, 3 for colour
    size: int | None  # side in pixels to resize and crop to; None needs images that are square and alike already
    side: tuple[int, int]  # width and height of the first image; all others must have them if size is None
    origin: str
    findings: Findings

    def chunks(self, blobs: Iterable[Blob]) -> Iterator[NDArray[np.uint8]]:
        """Decode images in order, in threads; yield arrays (b, C, H, W).

        An image that cannot be read is black here, and an error of `Findings.finish`.
        """
        iterator = iter(blobs)
        width, height = self._shape
        length = max(1, min(CHUNK, CHUNK_BYTES // (self.channels * width * height)))
        with quiet(), ThreadPoolExecutor() as pool:
            while batch := list(islice(iterator, 16 * length)):
                images = []
                for blob, (image, notes, reason) in zip(batch, pool.map(self._one, batch), strict=True):
                    self.findings.notes.update(notes)
                    if reason:
                        self.findings.failed[blob.name] = reason
                    images.append(image)
                yield from (np.stack(images[i : i + length]) for i in range(0, len(images), length))

    def part(self, labels: Labels, blobs: Callable[[], Iterable[Blob]]) -> Part:
        """Return the images of labels (n,) as a part."""
        return Part(labels, lambda: self.chunks(blobs()))

    @property
    def _shape(self) -> tuple[int, int]:
        return self.side if self.size is None else (self.size, self.size)

    def _one(self, blob: Blob) -> tuple[NDArray[np.uint8], tuple[str, ...], str]:
        """Decode one image (C, H, W); return notes, and the reason if it cannot be read."""
        width, height = self._shape
        try:
            with decoding(blob.read(), self.channels) as (image, notes):
                if self.size is None and image.size != self.side:
                    raise ValueError(
                        f"images differ in size, {self.origin} is {pixels(self.side)} and "
                        f"{blob.name} is {pixels(image.size)}: {REMEDY}"
                    )
                pixel = np.array(resize_and_crop(image, self.size), dtype=np.uint8)
        except Unreadable as error:
            return np.zeros((self.channels, height, width), dtype=np.uint8), (), str(error)
        return pixel.reshape(*pixel.shape[:2], -1).transpose(2, 0, 1), notes, ""


def decoder(blobs: Iterable[Blob], form: Form) -> Decoder:
    """Return the decoder for a data set, from its training images' headers up to the first with colour."""
    first: tuple[str, tuple[int, int]] | None = None
    channels, findings = form.channels or 1, Findings()
    with quiet():
        for blob in blobs:
            try:
                side, grey = header(blob.read(), upright=first is None)
            except Unreadable as error:
                findings.failed[blob.name] = str(error)
                continue
            first = first or (blob.name, side)
            if form.channels is None and not grey:
                channels = 3
            if form.channels is not None or not grey:
                break
    if first is None:
        findings.finish()
        raise ValueError("there is no image to decode: add training images")
    origin, side = first
    check_side(origin, side, form.size)
    return Decoder(channels, form.size, side, origin, findings)


def check_side(origin: str, side: tuple[int, int], size: int | None) -> None:
    """Refuse images that are not square, or too large, where no size is given."""
    if size is None and side[0] != side[1]:
        raise ValueError(f"{origin} is {pixels(side)}, which is not square: {REMEDY}")
    if size is None and max(side) > MAX_SIDE:
        raise ValueError(f"{origin} is {pixels(side)}, more than {MAX_SIDE} a side: {REMEDY}")


def resize_and_crop(image: "Image", size: int | None) -> "Image":
    """Resize an image's shorter side to ``size`` (bilinear) and crop its centre; refuse a result of gigabytes."""
    from PIL.Image import Resampling

    if size is None or image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if width * height > max(1 << 24, 16 * size * size):
        raise Unreadable(f"{pixels(image.size)}, too long and narrow for size {size}")
    image = image.resize((width, height), Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def convert(images: NDArray[np.uint8], form: Form) -> NDArray[np.uint8]:
    """Convert arrays (b, H, W, C) to a form's size and channels."""
    from PIL import Image

    _, height, width, own = images.shape
    channels, size = form.channels or own, form.size
    if channels == own and size in (None, height) and height == width:
        return images
    frames = (Image.fromarray(frame[..., 0] if own == 1 else frame) for frame in images)
    mode = "L" if channels == 1 else "RGB"
    arrays = [np.asarray(resize_and_crop(frame, size).convert(mode)) for frame in frames]
    return np.stack(arrays).reshape(len(images), *arrays[0].shape[:2], channels)


def pixels(side: tuple[int, int]) -> str:
    """Return width and height as text."""
    return f"{side[0]}x{side[1]}"
