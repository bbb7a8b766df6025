"""One encoded picture as upright pixels of 8 bits, grey or RGB: the boundary that every reader of pictures shares.

What a viewer shows is what is learned: the EXIF orientation is applied, and what is transparent is laid on white.
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "ICO")
"""Pillow's names of the formats that are read; others run programs, hold no 8-bit pixels or are no pictures."""
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


class Unreadable(Exception):
    """A picture cannot be read; the text says why in a few words."""


class Header(NamedTuple):
    """What a picture's header says.

    Attributes:
        size: Width and height, as a viewer shows them.
        grey: Whether its mode has no colour.
    """

    size: tuple[int, int]
    grey: bool


class Upright(NamedTuple):
    """A decoded picture.

    Attributes:
        image: Mode L or RGB.
        notes: What was decided for it, in words.
    """

    image: "Image"
    notes: tuple[str, ...]


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file.

    Raises:
        Unreadable: It is not a regular file, is too large, or cannot be opened.
    """
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise Unreadable("not a file")
        if status.st_size > MAX_BYTES:
            raise Unreadable(f"{status.st_size >> 20} MB, more than {MAX_BYTES >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(str(error.strerror)) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what Pillow warns about; enter it in the main thread, since the filters are the process's."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def header(data: bytes, *, upright: bool = True) -> Header:
    """Read a picture's header alone.

    Args:
        data: The encoded picture.
        upright: Whether the size is that after the EXIF orientation, for which some files must be read whole.

    Raises:
        Unreadable: See `decode`.
    """
    with _damage():
        image = _opened(data)
        width, height = image.size
        turned = upright and _orientation(image) >= 5
        return Header((height, width) if turned else (width, height), _is_grey(image))


@contextlib.contextmanager
def decoding(data: bytes, channels: int) -> Iterator[Upright]:
    """Decode a picture; large ones are held one at a time.

    Sixteen bits are scaled to eight, transparent pixels are laid on white, of several frames the first is taken.

    Args:
        data: The encoded picture.
        channels: 1 or 3: what it is converted to.

    Yields:
        The picture.

    Raises:
        Unreadable: It is empty, damaged, too large, no picture, or of a mode whose range is unknown.
    """
    with _damage():
        image = _opened(data)
    width, height = image.size
    with _ALONE if width * height > ALONE_PIXELS else contextlib.nullcontext():
        with _damage():
            upright = _upright(image, channels)
        yield upright


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Whatever Pillow raises for a damaged picture, which is of many types, as one."""
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


def _opened(data: bytes) -> "Image":
    """The picture of some bytes, its pixels not yet decoded."""
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


def _upright(image: "Image", channels: int) -> Upright:
    notes: list[str] = []
    _scale_clear_colour(image)
    if image.mode in (*COLOUR, "LA") and any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        notes.append(SCALED)  # by Pillow, which takes the upper byte
    grey, turn, alone = _is_grey(image), _orientation(image), _one_frame(image)
    if image.mode in OTHER_COLOURS:
        notes.append(f"{image.mode} is converted to RGB without its colour profile")
    image = _flat(_eight_bits(image, notes), grey, notes)
    if turn in _TURNS:
        image = image.transpose(_turns()[turn])
    if image.mode == "RGB" and channels == 1 and _has_colour(image):
        notes.append("colours are read as grey")
    image = image.convert("L" if channels == 1 else "RGB")
    if not alone:
        notes.append("of several frames the first is read")
    return Upright(image, tuple(notes))


_TURNS = range(2, 9)


def _turns() -> dict[int, Any]:
    """How each EXIF orientation is undone."""
    from PIL.Image import Transpose

    names = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    return {value: Transpose[name] for value, name in zip(_TURNS, names, strict=True)}


def _orientation(image: "Image") -> int:
    """The EXIF orientation that is left to undo; 1, upright, where EXIF is damaged too."""
    if image.format == "TIFF":  # Pillow undoes it on decoding
        return 1
    with contextlib.suppress(Exception):
        found = image.getexif().get(_ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    return 1


def _one_frame(image: "Image") -> bool:
    """Whether there is one picture in the file; the second one of a camera's MPO is no frame."""
    return image.format == "MPO" or not getattr(image, "is_animated", False)


def _scale_clear_colour(image: "Image") -> None:
    """Bring a PNG's transparent colour, which is in the file's depth, to that of the decoded pixels."""
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", ()) if image.format == "PNG" else ()
    stored = str(tiles[0].args) if tiles else ""
    if isinstance(clear, int) and (factor := {"L;2": 85, "L;4": 17}.get(stored)):
        image.info["transparency"] = clear * factor
    elif isinstance(clear, tuple) and "16" in stored:
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _eight_bits(image: "Image", notes: list[str]) -> "Image":
    """A picture of 16 bits scaled to 8: 65535, or what the file says is white, becomes 255."""
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
    """A picture without transparency, of mode L or RGB."""
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


def _has_colour(image: "Image") -> bool:
    red, green, blue = np.asarray(image).transpose(2, 0, 1)
    return bool((red != green).any() or (green != blue).any())
