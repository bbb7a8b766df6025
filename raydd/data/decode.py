"""Encoded images -> uint8 arrays of one size and one number of channels.

Shapes: `b` images of a chunk, `C H W` image.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 128
REMEDY = "give one size for all images, for example --set data.size=64"


class Blob(NamedTuple):
    """One encoded image: where it is from, for errors, and its bytes when they are wanted."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Decoder:
    """How every image of a data set is decoded.

    Attributes:
        mode: Pillow's mode, ``L`` where every training image is grey, else ``RGB``.
        size: Side in pixels that images are resized (shorter side) and centre-cropped to; None
            asks for images that are square and alike already.
        side: Width and height of the first image, that all others must have when size is None.
        origin: The first image's name.
    """

    mode: str
    size: int | None
    side: tuple[int, int]
    origin: str

    def one(self, blob: Blob) -> NDArray[np.uint8]:
        """One image (C, H, W).

        Raises:
            ValueError: It cannot be read, or its size is not the others'.
        """
        image = opened(blob, self.mode)
        if self.size is None and image.size != self.side:
            raise ValueError(
                f"images differ in size, {self.origin} is {pixels(self.side)} and "
                f"{blob.name} is {pixels(image.size)}: {REMEDY}"
            )
        pixel = np.asarray(cropped(image, self.size), dtype=np.uint8)
        return pixel.reshape(*pixel.shape[:2], -1).transpose(2, 0, 1)

    def chunks(self, blobs: Iterable[Blob]) -> Iterator[NDArray[np.uint8]]:
        """Images in order, as arrays (b, C, H, W); decoded by a pool of threads."""
        iterator = iter(blobs)
        with ThreadPoolExecutor() as pool:
            while batch := list(islice(iterator, 16 * CHUNK)):
                yield from pool.map(self._many, [batch[i : i + CHUNK] for i in range(0, len(batch), CHUNK)])

    def _many(self, blobs: list[Blob]) -> NDArray[np.uint8]:
        return np.stack([self.one(blob) for blob in blobs])


def decoder(blobs: Iterable[Blob], size: int | None) -> Decoder:
    """The decoder for a data set, from its training images' headers up to the first with colour.

    Raises:
        ValueError: No image, one that cannot be read, or a first one that is not square without a size.
    """
    first: tuple[str, tuple[int, int]] | None = None
    mode = "L"
    for blob in blobs:
        image = opened(blob)
        first = first or (blob.name, image.size)
        if image.mode not in ("1", "L", "LA"):
            mode = "RGB"
            break
    if first is None:
        raise ValueError("there is no image to decode: add training images")
    origin, side = first
    if size is None and side[0] != side[1]:
        raise ValueError(f"{origin} is {pixels(side)}, which is not square: {REMEDY}")
    return Decoder(mode, size, side, origin)


def opened(blob: Blob, mode: str | None = None) -> "Image":
    """The image of a blob: its header alone, or decoded and converted to a mode.

    Raises:
        ValueError: The file is not an image or is damaged; names it.
    """
    from PIL import Image

    try:
        image = Image.open(BytesIO(blob.read()))
        return image.convert(mode) if mode else image
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = type(error).__name__
        raise ValueError(f"{blob.name} is not a readable image ({reason}): remove or repair it") from error


def cropped(image: "Image", size: int | None) -> "Image":
    """The image with its shorter side resized to ``size`` (bilinear) and its centre cut out."""
    from PIL.Image import Resampling

    if size is None or image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def resized(images: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """Arrays (b, H, W, C), resized and centre-cropped to (b, size, size, C)."""
    from PIL import Image

    if size is None or images.shape[1:3] == (size, size):
        return images
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    frames = np.stack([np.asarray(cropped(Image.fromarray(frame), size)) for frame in squeezed])
    return frames.reshape(len(images), size, size, images.shape[-1])


def pixels(side: tuple[int, int]) -> str:
    """Width and height as people write them."""
    return f"{side[0]}x{side[1]}"
