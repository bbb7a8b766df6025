"""Readers of Parquet in Hugging Face image layout, and of ``.npz`` archives."""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydd.data.decode import REMEDY, Blob, Decoder, decoder
from raydd.data.folders import TEST_NOTE, TEST_SHARE
from raydd.data.source import Content, Labels, Part, Source, checked_labels, from_array, holdout

COLUMNS = "columns image: struct<bytes, path> and label: int64"
KEYS = ("x_train", "y_train", "x_test", "y_test")
UNUSED_NOTE = "validation*.parquet is not used: the validation split is held out of the training images"
INSTEAD_NOTE = "validation*.parquet is the test split: there is no test*.parquet"


def parquet_files(root: Path) -> list[Path]:
    """The Parquet files of a folder or of the folder ``data`` in it; a Parquet file is itself one."""
    if root.is_file():
        return [root] if root.suffix == ".parquet" else []
    return sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])


def find_parquet(root: Path, name: str) -> Source:
    """A file or folder of Parquet in Hugging Face image layout.

    Files named ``test*`` are the test images (``validation*`` where there are none), all others but
    ``validation*`` the training images. Without test images a fixed stratified 20 % is held out.

    Raises:
        ValueError: No training file.
    """
    files = parquet_files(root)
    test = [path for path in files if path.name.startswith("test")]
    spare = [path for path in files if path.name.startswith("val")]
    train = [path for path in files if path not in test and path not in spare]
    if not train:
        raise ValueError(f"{root} has no train*.parquet: name the training files train*.parquet")
    note = (UNUSED_NOTE if test else INSTEAD_NOTE) if spare else ""
    used = test or spare
    return Source(name, (*train, *used), partial(_read_parquet, name, train, used, note))


def _read_parquet(name: str, train: list[Path], test: list[Path], note: str, size: int | None) -> Content:
    columns = [_labels(path) for path in train + test]
    names = next((_class_names(path) for path in train), None)
    raw = np.concatenate(columns[: len(train)])
    classes = names or tuple(str(label) for label in range(int(raw.max(initial=-1)) + 1))
    labels = checked_labels(raw, len(classes), str(train[0]), every=True)
    plan = decoder(_blobs(train, None), size)
    if test:
        raw = np.concatenate(columns[len(train) :])
        tests = checked_labels(raw, len(classes), str(test[0]), every=False)
        return Content(classes, _part(train, labels, None, plan), _part(test, tests, None, plan), note)
    kept, held = holdout(labels, TEST_SHARE, "test", name)
    if not held.size:
        raise ValueError(f"{train[0]} has too few images for a test split: give at least 3 a class, or a test*.parquet")
    return Content(classes, _part(train, labels, kept, plan), _part(train, labels, held, plan), TEST_NOTE)


def _part(files: list[Path], labels: Labels, rows: NDArray[np.int64] | None, plan: Decoder) -> Part:
    chosen = labels if rows is None else labels[rows]
    return Part(chosen, lambda: plan.chunks(_blobs(files, rows)))


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: copy it again") from error


def _labels(path: Path) -> NDArray[Any]:
    """The label column of a file, once its schema is known to be right."""
    import pyarrow as pa

    with _open(path) as file:
        schema = file.schema_arrow
        missing = [column for column in ("image", "label") if column not in schema.names]
        if missing:
            raise ValueError(
                f"{path} has no column {missing[0]} (it has {', '.join(schema.names)}): rename its columns to {COLUMNS}"
            )
        image = schema.field("image").type
        if not pa.types.is_struct(image) or image.get_field_index("bytes") < 0:
            raise ValueError(f"{path} has images of type {image}: write {COLUMNS}")
        try:
            column = file.read(columns=["label"]).column("label")
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a readable Parquet file: copy it again") from error
        if column.null_count:
            raise ValueError(f"{path} has {column.null_count} images without a label: remove those rows")
        return np.asarray(column.to_numpy())


def _class_names(path: Path) -> tuple[str, ...] | None:
    """The class names in the schema's Hugging Face metadata; None where there are none."""
    with _open(path) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None


def _blobs(files: Sequence[Path], rows: NDArray[np.int64] | None) -> Iterator[Blob]:
    """The encoded images of files in order, or those of the given rows of them all."""
    wanted = None if rows is None else set(rows.tolist())
    for row, (name, encoded) in enumerate(pair for path in files for pair in _encoded(path)):
        if wanted is None or row in wanted:
            yield Blob(name, _given(encoded))


def _given(encoded: bytes) -> Callable[[], bytes]:
    return lambda: encoded


def _encoded(path: Path) -> Iterator[tuple[str, bytes]]:
    import pyarrow as pa

    with _open(path) as file:
        row = 0
        try:
            for batch in file.iter_batches(batch_size=1024, columns=["image"]):
                for value in batch.column("image").field("bytes").to_pylist():
                    yield f"{path} row {row}", value or b""
                    row += 1
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not readable after row {row}: copy it again") from error


def find_npz(path: Path, name: str) -> Source:
    """An ``.npz`` with ``x_train, y_train, x_test, y_test``; images are uint8 NHWC, NCHW or NHW."""
    return Source(name, (path,), partial(_read_npz, path))


def _read_npz(path: Path, size: int | None) -> Content:
    arrays = _npz_arrays(path)
    train, test = (_channels_last(arrays[key], f"{path} {key}") for key in ("x_train", "x_test"))
    if size is None and (train.shape[1:3] != test.shape[1:3] or train.shape[1] != train.shape[2]):
        sizes = " and ".join(f"{images.shape[2]}x{images.shape[1]}" for images in (train, test))
        raise ValueError(f"{path} has training and test images of {sizes}, not square and alike: {REMEDY}")
    if train.shape[3] != test.shape[3]:
        raise ValueError(f"{path} has {train.shape[3]} channels in x_train and {test.shape[3]} in x_test: use the same")
    largest = int(np.max(arrays["y_train"], initial=-1)) if arrays["y_train"].dtype.kind in "iu" else 0
    classes = tuple(str(label) for label in range(largest + 1))
    labels = checked_labels(arrays["y_train"], len(classes), f"{path} y_train", every=True)
    tests = checked_labels(arrays["y_test"], len(classes), f"{path} y_test", every=False)
    if len(labels) != len(train) or len(tests) != len(test):
        raise ValueError(f"{path} has other numbers of images and labels: x_* and y_* must be of one length")
    return Content(classes, from_array(train, labels, size), from_array(test, tests, size))


def _npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a readable .npz file: copy it again")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: np.asarray(archive[key]) for key in KEYS if key in archive}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npz file of numbers: save {', '.join(KEYS)} again") from error
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise ValueError(f"{path} has no {missing[0]}: save it with {', '.join(KEYS)}")
    return found


def _channels_last(images: NDArray[Any], origin: str) -> NDArray[np.uint8]:
    """Images as (n, H, W, C)."""
    if images.dtype != np.uint8:
        raise ValueError(f"{origin} is of type {images.dtype}: save images as uint8, 0..255")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    raise ValueError(f"{origin} has shape {images.shape}: save NHWC, NCHW or NHW with 1 or 3 channels")
