"""Decoded images on disk: uint8 ``.npy`` files and a JSON, written once, memory-mapped by all.

A data set is in ``<cache>/datasets/<name>-<key>/``. The key covers the source files (path, size and modification time
of each), the images' form and the version of this layout. A folder is written under another name and renamed, so that
a folder with the right name is complete.
"""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from raydd.data.decode import REMEDY
from raydd.data.image_source import Content, Form, Images, Labels, Part, Source
from raydd.io.bounded_file import open_regular, read_bytes
from raydd.io.console import Screen
from raydd.io.document import Document, dump_document, parse_document
from raydd.io.found_whole import FoundWhole, identity
from raydd.io.lock import one_at_a_time, removed_if_empty

SCHEMA = 2  # of the layout and the decoding: 2 scales 16 bits, turns by EXIF, lays transparency on white
PARTS = ("train", "test")

_VERIFIED: set[tuple[object, ...]] = set()
"""The states of folders that this process has compared with their fingerprint."""


class _Manifest(Document):
    """``dataset.json``; folders of older versions have no checksum of the moments."""

    schema_: Annotated[Literal[2], Field(alias="schema")]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    note: str
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    moments: str | None = None


@dataclass(frozen=True)
class CachedImages:
    """A data set in the cache, by part (``train`` and ``test``)."""

    classes: tuple[str, ...]
    images: dict[str, Images]  # of each part, (n, C, H, W) uint8, memory-mapped and read-only
    labels: dict[str, Labels]  # of each part, (n,)
    moments: NDArray[np.int64]  # of each training image and channel, sum and sum of squares of its pixels (n, 2, C)
    fingerprint: str  # sha256 of the stored arrays, 16 hex digits
    note: str


def open_cached(source: Source, cache: Path, form: Form) -> CachedImages:
    """Open a data set in the cache; decode it first if it is missing or damaged."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", source.name).strip(".") or "images"
    folder = cache / "datasets" / f"{name}-{key(source, form)}"
    if folder.is_dir():
        try:
            return _open(folder)
        except ValueError as error:
            Screen().note(f"{folder} is a damaged copy of a data set ({error}): it is made again")
    content = source.read(form)
    try:
        _write(folder, content)
    except OSError as error:
        raise ValueError(f"{cache} cannot be written ({error.strerror}): set RAYDD_CACHE to another folder") from error
    try:
        return _open(folder)
    except ValueError as error:
        raise ValueError(f"{folder} cannot be read back ({error}): set RAYDD_CACHE to another disk") from None


def key(source: Source, form: Form) -> str:
    """Return 16 hex digits that change with any file of the source, the form and the layout's version."""
    files = []
    for path in source.files:
        try:
            status = path.stat()
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}): put it back, or change its permissions"
            ) from error
        files.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    identity = json.dumps([SCHEMA, source.name, files, *form])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _write(folder: Path, content: Content) -> None:
    """Write a folder under another name and rename it; wait for another writer, and use its folder."""
    with removed_if_empty(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder.parent):
            if not _is_whole(folder):
                _write_unfinished(folder, _beside(folder, "tmp"), content)


def _is_whole(folder: Path) -> bool:
    """Return whether a folder is there, as another process may have written it; remove a damaged one."""
    try:
        return folder.is_dir() and bool(_open(folder))
    except ValueError:
        away = _beside(folder, "bad")
        os.rename(folder, away)
        shutil.rmtree(away, ignore_errors=True)
        return False


def _write_unfinished(folder: Path, unfinished: Path, content: Content) -> None:
    digest = hashlib.sha256()
    unfinished.mkdir()
    try:
        parts = zip(PARTS, (content.train, content.test), strict=True)
        train, test = (_write_part(unfinished, name, part, digest) for name, part in parts)
        if train != test:
            raise ValueError(f"training images are {train} and test images {test} (C, H, W): {REMEDY}")
        manifest = {"schema": SCHEMA, "classes": content.classes, "note": content.finish()}
        manifest |= {"fingerprint": digest.hexdigest()[:16], "moments": _moments_digest(unfinished)}
        (unfinished / "dataset.json").write_bytes(dump_document(manifest))
        os.rename(unfinished, folder)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not (isinstance(error, OSError) and folder.is_dir()):
            raise


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}.{suffix}")


def _write_part(folder: Path, name: str, part: Part, digest: Any) -> tuple[int, ...]:
    """Write one part's images, labels and moments as they are decoded; return the shape (C, H, W) of its images."""
    chunks = part.chunks()
    first = next(chunks)
    shape = (len(part.labels), *first.shape[1:])
    images = np.lib.format.open_memmap(folder / f"{name}_images.npy", mode="w+", dtype=np.uint8, shape=shape)
    moments = np.zeros((len(part.labels), 2, shape[1]), dtype=np.int64)
    digest.update(json.dumps([name, shape, part.labels.tolist()]).encode())
    start = 0
    for chunk in itertools.chain([first], chunks):
        stop = start + len(chunk)
        images[start:stop] = chunk
        wide = chunk.astype(np.int64)
        moments[start:stop, 0] = wide.sum((2, 3))
        moments[start:stop, 1] = (wide * wide).sum((2, 3))
        digest.update(chunk.tobytes())
        start = stop
    assert start == len(part.labels), f"{start} images for {len(part.labels)} labels"
    images.flush()
    np.save(folder / f"{name}_labels.npy", part.labels)
    np.save(folder / f"{name}_moments.npy", moments)
    return shape[1:]


def _moments_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "train_moments.npy").read_bytes()).hexdigest()


def _open(folder: Path) -> CachedImages:
    """Open a folder; a machine reads all of it once, and compares it with its fingerprint."""
    try:
        manifest, _ = parse_document(read_bytes(folder / "dataset.json"), _Manifest)
        parts = {part: _open_part(folder, part, len(manifest.classes)) for part in PARTS}
        train = parts["train"][0]
        if train.shape[1:] != parts["test"][0].shape[1:]:
            raise ValueError("training and test images differ in shape")
        moments = np.array(_array(folder / "train_moments.npy", np.int64, (len(train), 2, train.shape[1])))
        if (state := _state(folder)) not in _VERIFIED:
            _check_once(folder, manifest, parts)
            _VERIFIED.add(state)
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from None
    images, labels = {part: parts[part][0] for part in PARTS}, {part: parts[part][1] for part in PARTS}
    return CachedImages(manifest.classes, images, labels, moments, manifest.fingerprint, manifest.note)


def _state(folder: Path) -> tuple[object, ...]:
    """Return a value that changes when a file of a folder is replaced or written to."""
    status = (path.stat() for path in sorted(folder.iterdir()))
    return str(folder), *((one.st_ino, one.st_size, one.st_mtime_ns) for one in status)


def _check_once(folder: Path, manifest: _Manifest, parts: Mapping[str, tuple[Images, Labels]]) -> None:
    """Compare a folder's content with its fingerprint, unless this machine has, and no file was touched since."""
    memory = FoundWhole(folder, folder.parent.parent)
    files = {path.name: identity(path, manifest.fingerprint) for path in folder.iterdir()}
    if files == memory.known:
        return
    _check_values(folder, manifest, parts)
    if None not in files.values():
        memory.remember({name: own for name, own in files.items() if own is not None})


def _open_part(folder: Path, name: str, classes: int) -> tuple[Images, Labels]:
    labels = np.array(_array(folder / f"{name}_labels.npy", np.int64, (None,)))
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"{name}_labels.npy has labels that are of no class")
    return _array(folder / f"{name}_images.npy", np.uint8, (len(labels), None, None, None)), labels


def _array(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...]) -> Any:
    """Map a ``.npy`` file; None is any length."""
    open_regular(path).close()  # a FIFO is not waited for
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy parses the header as Python, which may raise anything
        raise ValueError(f"{path.name} is no array: {' '.join(str(error).split())[:100]}") from None
    wanted = tuple(have if want is None else want for have, want in zip(array.shape, shape, strict=False))
    if array.dtype != dtype or (array.ndim, array.shape) != (len(shape), wanted) or not array.flags.c_contiguous:
        raise ValueError(f"{path.name} is of {array.dtype} and shape {array.shape}")
    if (size := path.stat().st_size - array.offset) != array.nbytes:
        raise ValueError(f"{path.name} is of {array.dtype} and shape {array.shape}, and has {size} bytes")
    return array


def _check_values(folder: Path, manifest: _Manifest, parts: Mapping[str, tuple[Images, Labels]]) -> None:
    """Compare a folder's content with its fingerprint."""
    digest = hashlib.sha256()
    for name, (images, labels) in parts.items():
        digest.update(json.dumps([name, images.shape, labels.tolist()]).encode())
        with open(folder / f"{name}_images.npy", "rb") as file:
            file.seek(-images.nbytes, os.SEEK_END)
            while data := file.read(1 << 20):  # not through the map, whose pages would count as this process's
                digest.update(data)
    if digest.hexdigest()[:16] != manifest.fingerprint:
        raise ValueError("its images or labels changed since they were written (checksum)")
    if manifest.moments not in (None, _moments_digest(folder)):
        raise ValueError("train_moments.npy changed since it was written (checksum)")
