"""Decode one picture to upright pixels of 8 bits, grey or RGB; every reader of pictures uses this.

The pixels are those that a viewer shows: the EXIF orientation is applied, and transparent pixels are laid on white.
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raydd.io.bounded_file import read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "ICO")
"""Pillow's names of the supported formats; others run programs, hold no 8-bit pixels or are no pictures."""
MAX_BYTES = 1 << 28
MAX_PIXELS = 1 << 26
ALONE_PIXELS = 1 << 22
"""Pictures of more pixels are decoded one at a time, whatever the number of threads."""
WHITE = 255
SCALED = "16 bits a pixel are scaled to 8"
TRANSPARENT = "transparent pixels are laid on white"
GREY = ("1", "L", "LA", "La")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
COLOUR = ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
OTHER_COLOURS = ("CMYK", "LAB")

_ALONE = threading.Lock()
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 0x0112
_TURNS = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
"""The transpositions that undo the EXIF orientations 2 to 8."""


class Unreadable(Exception):
    """A picture cannot be read; the message is the reason in a few words."""


def read_file(path: Path) -> bytes:
    """Return the bytes of a picture's file; refuse one that is not a regular file, too large, or cannot be opened."""
    try:
        return read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise Unreadable(
            str(getattr(error, "strerror", error)).removeprefix("it is ").removeprefix("it has ")
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings; enter it in the main thread, since the filters are the process's."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def header(data: bytes, *, upright: bool = True) -> tuple[tuple[int, int], bool]:
    """Return a picture's width and height, and whether its mode has no colour, from its header alone.

    The EXIF orientation, if asked for, is applied to the size; some files are read whole for it.
    """
    with _damage():
        image = _open(data)
        width, height = image.size
        turned = upright and _orientation(image) >= 5
        return (height, width) if turned else (width, height), _is_grey(image)


@contextlib.contextmanager
def decoding(data: bytes, channels: int) -> Iterator[tuple["Image", tuple[str, ...]]]:
    """Decode a picture to mode L or RGB, with notes on decisions; only one large picture is held at a time.

    Sixteen bits are scaled to eight, transparent pixels are laid on white, and the first of several frames is used.
    """
    with _damage():
        image = _open(data)
    width, height = image.size
    with _ALONE if width * height > ALONE_PIXELS else contextlib.nullcontext():
        with _damage():
            upright = _upright(image, channels)
        yield upright


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Turn Pillow's errors for a damaged picture, of many types, into `Unreadable`."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise Unreadable(f"more than {MAX_PIXELS >> 20} million pixels") from None
    except UnidentifiedImageError:
        raise Unreadable("not a picture of a format that is read") from None
    except Exception as error:
        raise Unreadable(f"damaged, {type(error).__name__}") from error


def _open(data: bytes) -> "Image":
    """Open a picture without decoding its pixels."""
    from PIL import Image

    if not data:
        raise Unreadable("empty")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    image = Image.open(BytesIO(data), formats=formats)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width}x{height}, more than {MAX_PIXELS >> 20} million pixels")
    if not _is_grey(image) and image.mode not in COLOUR:
        raise Unreadable(f"pixels of mode {image.mode}, whose range is unknown; save 8 or 16 bits")
    if image.format == "PNG":  # Pillow compares no checksums of pixel data by itself
        Image.open(BytesIO(data), formats=["PNG"]).verify()
    return image


def _is_grey(image: "Image") -> bool:
    if image.mode == "P" and (palette := image.getpalette()):
        colours = np.array(palette, dtype=np.uint8).reshape(-1, 3)
        return bool((colours == colours[:, :1]).all())
    ranged = image.mode == "I" and image.format == "PPM"  # scaled to 16 bits by Pillow
    return ranged or image.mode in GREY or image.mode in DEEP


def _upright(image: "Image", channels: int) -> tuple["Image", tuple[str, ...]]:
    from PIL.Image import Transpose

    notes: list[str] = []
    _scale_clear_colour(image)
    if image.mode in (*COLOUR, "LA") and any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        notes.append(SCALED)  # by Pillow, which takes the upper byte
    grey, turn = _is_grey(image), _orientation(image)
    frames = image.format != "MPO" and getattr(image, "is_animated", False)  # a camera's MPO has no second frame
    if image.mode in OTHER_COLOURS:
        notes.append(f"{image.mode} is converted to RGB without its colour profile")
    image = _flat(_eight_bits(image, notes), grey, notes)
    if 2 <= turn <= 8:
        image = image.transpose(Transpose[_TURNS[turn - 2]])
    if image.mode == "RGB" and channels == 1 and (np.ptp(np.asarray(image), axis=2) > 0).any():
        notes.append("colours are read as grey")
    image = image.convert("L" if channels == 1 else "RGB")
    if frames:
        notes.append("of several frames the first is read")
    return image, tuple(notes)


def _orientation(image: "Image") -> int:
    """Return the EXIF orientation to undo; 1, upright, if EXIF is damaged."""
    if image.format == "TIFF":  # Pillow undoes it on decoding
        return 1
    with contextlib.suppress(Exception):
        value = image.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) else 1
    return 1


def _scale_clear_colour(image: "Image") -> None:
    """Convert a PNG's transparent colour from the file's depth to that of the decoded pixels."""
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", ()) if image.format == "PNG" else ()
    stored = str(tiles[0].args) if tiles else ""
    if isinstance(clear, int) and (factor := {"L;2": 85, "L;4": 17}.get(stored)):
        image.info["transparency"] = clear * factor
    elif isinstance(clear, tuple) and "16" in stored:
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _eight_bits(image: "Image", notes: list[str]) -> "Image":
    """Scale a picture of 16 bits to 8: 65535, or the file's white, becomes 255."""
    from PIL import Image

    if image.mode not in DEEP and image.mode != "I":
        return image
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    white = (1 << bits) - 1
    deep = np.asarray(image).astype(np.uint32)
    values = np.minimum((deep * 255 + white // 2) // white, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # 0 is white
        values = 255 - values
    notes.append(SCALED)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int) and (deep == hidden).any():
        notes.append(TRANSPARENT)
        values[deep == hidden] = WHITE
    return Image.fromarray(values)


def _flat(image: "Image", grey: bool, notes: list[str]) -> "Image":
    """Return a picture without transparency, of mode L or RGB."""
    from PIL import Image

    mode = "L" if grey else "RGB"
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if not image.has_transparency_data:
        return image.convert(mode)
    clear = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
    alpha = clear.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return clear.convert(mode)
    notes.append(TRANSPARENT)
    under = Image.new(mode, image.size, WHITE if grey else (WHITE,) * 3)
    under.paste(clear.convert(mode), mask=alpha)
    return under
