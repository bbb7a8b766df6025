"""Decoded images on disk: uint8 ``.npy`` files and a JSON, written once, memory-mapped by all.

A data set lies in ``<cache>/datasets/<name>-<key>/``. The key covers the files it was read from
(path, size and modification time of each), the images' form and the version of this layout. A folder
is written under another name and renamed, so that what has the right name is whole.

Shapes: `n` images of a part, `C H W` image.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydd.data.decode import REMEDY
from raydd.data.source import Content, Form, Images, Labels, Part, Source

SCHEMA = 2  # of what is read and how: 2 scales 16 bits, turns by EXIF, lays transparency on white
PARTS = ("train", "test")


@dataclass(frozen=True)
class Stored:
    """A data set's folder in the cache, opened.

    Attributes:
        classes: Class names.
        images: Of each part, (n, C, H, W) uint8, memory-mapped and read-only.
        labels: Of each part, (n,).
        moments: Of each training image and channel, sum and sum of squares of its pixels (n, 2, C).
        fingerprint: sha256 of the stored arrays, 16 hex digits.
        note: What the reader had to decide by itself.
    """

    classes: tuple[str, ...]
    images: dict[str, Images]
    labels: dict[str, Labels]
    moments: NDArray[np.int64]
    fingerprint: str
    note: str


def default_cache() -> Path:
    """``$RAYDD_CACHE``, else ``~/.cache/raydd``."""
    return Path(os.environ.get("RAYDD_CACHE") or "~/.cache/raydd").expanduser()


def stored(source: Source, cache: Path, form: Form) -> Stored:
    """The data set from the cache; decoded into it first where it is not there.

    Raises:
        ValueError: The source cannot be read, or the cache folder is damaged or cannot be written.
    """
    folder = cache / "datasets" / f"{_slug(source.name)}-{key(source, form)}"
    if not folder.is_dir():
        content = source.read(form)
        try:
            _write(folder, content)
        except OSError as error:
            raise ValueError(
                f"{cache} cannot be written ({error.strerror}): set RAYDD_CACHE to another folder"
            ) from error
    return _open(folder)


def key(source: Source, form: Form) -> str:
    """16 hex digits that change with any file of the source, the form and the layout's version."""
    files = []
    for path in source.files:
        try:
            status = path.stat()
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}): put it back, or mend its rights") from error
        files.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    identity = json.dumps([SCHEMA, source.name, files, *form])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".") or "images"


def _write(folder: Path, content: Content) -> None:
    """Writes the folder under another name and renames it; a concurrent writer's folder is waited for, and as good."""
    with _removed_on_failure(folder.parent), one_at_a_time(folder.parent):
        if folder.is_dir():
            return
        unfinished = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        unfinished.mkdir()
        try:
            digest = hashlib.sha256()
            for name, part in zip(PARTS, (content.train, content.test), strict=True):
                _write_part(unfinished, name, part, digest)
            _check_alike(unfinished)
            about = {"schema": SCHEMA, "classes": content.classes, "note": content.finish()}
            about["fingerprint"] = digest.hexdigest()[:16]
            (unfinished / "dataset.json").write_text(json.dumps(about, indent=1) + "\n")
            os.rename(unfinished, folder)
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not (isinstance(error, OSError) and folder.is_dir()):
                raise


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Makes a folder, and takes away again what was made and stayed empty if the work fails."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # somebody else's files are in it by now
            for path in made:
                path.rmdir()
        raise


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Holds a folder, so that of a node's processes one writes there while the others wait; ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: each works for itself
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_part(folder: Path, name: str, part: Part, digest: Any) -> None:
    """One part's images, labels and moments, written as they are decoded."""
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


def _check_alike(folder: Path) -> None:
    train, test = (np.load(folder / f"{part}_images.npy", mmap_mode="r").shape for part in PARTS)
    if train[1:] != test[1:]:
        raise ValueError(f"training images are {train[1:]} and test images {test[1:]} (C, H, W): {REMEDY}")


def _open(folder: Path) -> Stored:
    try:
        about = json.loads((folder / "dataset.json").read_text())
        images = {part: np.load(folder / f"{part}_images.npy", mmap_mode="r", allow_pickle=False) for part in PARTS}
        labels = {part: np.load(folder / f"{part}_labels.npy", allow_pickle=False) for part in PARTS}
        moments = np.load(folder / "train_moments.npy", allow_pickle=False)
        return Stored(tuple(about["classes"]), images, labels, moments, about["fingerprint"], about["note"])
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is a damaged copy of a data set: delete that folder, it is made again") from error
