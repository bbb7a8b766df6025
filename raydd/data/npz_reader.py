"""The reader of ``.npz`` archives: images and labels as NumPy arrays."""

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydd.data.decode import REMEDY, check_side, pixels
from raydd.data.image_source import Bytes, Content, Form, Source, from_array
from raydd.data.labels import column, number_labels
from raydd.io.bounded_file import check_declared

KEYS = ("x_train", "y_train", "x_test", "y_test")
CLASSES = "classes"
BYTES_ONLY = "save images as uint8, 0..255"
SCALED_NOTE = "images of 16 bits are scaled to 8"
ROUNDED_NOTE = "images of numbers in [0, 1] are rounded to 8 bits"


def find_npz(path: Path, name: str) -> Source:
    """Find an ``.npz`` with ``x_train, y_train, x_test, y_test`` and optionally ``classes``: the names by label.

    Images are NHWC, NCHW or NHW with 1 or 3 channels: whole numbers 0..255, uint16 that uses more of its range
    (0..65535), or floating point in [0, 1]. Labels are whole numbers 0..K-1, or words.
    """
    return Source(name, (path,), partial(_read, path))


def _read(path: Path, form: Form) -> Content:
    arrays = _arrays(path)
    train, test = (_channels_last(arrays[key], f"{path} {key}") for key in ("x_train", "x_test"))
    _check_sizes(path, train, test, form)
    for part, images in (("train", train), ("test", test)):
        if len(arrays[f"y_{part}"]) != len(images):
            raise ValueError(f"{path} has other numbers of images and labels: x_* and y_* must be of one length")
    y_train, y_test = (column(arrays[key], f"{path} {key}") for key in ("y_train", "y_test"))
    names = column(arrays[CLASSES], f"{path} {CLASSES}").values.tolist() if CLASSES in arrays else None
    classes, labels, tests = number_labels(y_train, y_test, names)
    assert tests is not None  # y_test is there
    to_bytes, note = _scale(path, train, test)
    parts = (from_array(train, labels, form, to_bytes), from_array(test, tests, form, to_bytes))
    return Content(classes, *parts, note)


def _check_sizes(path: Path, train: NDArray[Any], test: NDArray[Any], form: Form) -> None:
    if form.size is None and (train.shape[1:3] != test.shape[1:3] or train.shape[1] != train.shape[2]):
        sizes = " and ".join(pixels(images.shape[2:0:-1]) for images in (train, test))
        raise ValueError(f"{path} has training and test images of {sizes}, not square and alike: {REMEDY}")
    check_side(f"an image of {path}", train.shape[2:0:-1], form.size)
    if train.shape[3] != test.shape[3]:
        raise ValueError(f"{path} has {train.shape[3]} channels in x_train and {test.shape[3]} in x_test: use the same")


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of the keys after checking their sizes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {key: archive.NameToInfo.get(f"{key}.npy") for key in (*KEYS, CLASSES)}
            known = {key: info for key, info in members.items() if info is not None}
            missing = [key for key in KEYS if key not in known]
            if missing:
                raise _Refused(f"{path} has no {missing[0]}: save it with {', '.join(KEYS)}")
            _check_members(path, archive, known)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: np.asarray(arrays[key]) for key in known}
    except _Refused:
        raise
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a readable .npz file: copy it again") from error
    except Exception as error:  # zipfile and NumPy raise whatever their parts raise
        raise ValueError(f"{path} is not a readable .npz file of numbers: save {', '.join(KEYS)} again") from error


class _Refused(ValueError):
    """A refusal in its final words."""


def _check_members(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> None:
    """Compare the sizes that the archive, the arrays' headers and the file declare."""
    try:
        check_declared(sum(info.file_size for info in members.values()), path.stat().st_size, str(path))
    except ValueError as error:
        raise _Refused(str(error)) from None
    for key, info in members.items():
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read(file)
            if dtype.hasobject:
                raise _Refused(f"{path} {key} holds Python objects, which are not read: save it with a plain dtype")
            size = int(np.prod([dtype.itemsize, *shape], dtype=object))
            if file.tell() + size != info.file_size:
                raise _Refused(f"{path} {key} says that it has {size} bytes, which are not in the file: save it again")


def _channels_last(images: NDArray[Any], origin: str) -> NDArray[Any]:
    """Return images as (n, H, W, C)."""
    if images.dtype.kind not in "buif":
        raise ValueError(f"{origin} is of type {images.dtype}: {BYTES_ONLY}")
    if 0 in images.shape:
        raise ValueError(f"{origin} has shape {images.shape}, which holds no pixel: save at least one image")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    raise ValueError(f"{origin} has shape {images.shape}: save NHWC, NCHW or NHW with 1 or 3 channels")


def _scale(path: Path, train: NDArray[Any], test: NDArray[Any]) -> tuple[Bytes, str]:
    """Return the function that makes both splits' numbers 0..255, and a note on its losses."""
    if train.dtype != test.dtype:
        raise ValueError(f"{path} has x_train of {train.dtype} and x_test of {test.dtype}: save both as uint8")
    kind = train.dtype.kind
    low, high = min(float(a.min()) for a in (train, test)), max(float(a.max()) for a in (train, test))
    what = f"{path} has images of {train.dtype} from {low:g} to {high:g}"
    if kind == "b":
        return lambda images: images.astype(np.uint8) * np.uint8(255), ""
    if kind == "f":
        if not (low >= 0 and high <= 1):  # NaN too
            raise ValueError(f"{what}: save numbers in [0, 1], or uint8, 0..255")
        return lambda images: np.rint(images.astype(np.float64) * 255).astype(np.uint8), ROUNDED_NOTE
    if low >= 0 and high <= 255:
        return lambda images: images.astype(np.uint8), ""
    if (kind, train.dtype.itemsize) == ("u", 2):
        return lambda images: ((images.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8), SCALED_NOTE
    raise ValueError(f"{what}: {BYTES_ONLY}")
