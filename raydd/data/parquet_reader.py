"""The reader of Parquet in Hugging Face image layout."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydd.data.decode import Blob, decoder
from raydd.data.folder_reader import TEST_NOTE, test_split
from raydd.data.image_source import Content, Form, Source
from raydd.data.labels import ONE_LABEL, Column, column, join, number_labels
from raydd.io.bounded_file import check_declared
from raydd.io.document import one_line, parse

COLUMNS = "columns image: struct<bytes, path> and label: int64 or string"
BATCH_BYTES = 64 << 20
UNUSED_NOTE = "validation*.parquet is not used: the validation split is held out of the training images"
INSTEAD_NOTE = "validation*.parquet is the test split: there is no test*.parquet"


def parquet_files(root: Path) -> list[Path]:
    """Return the Parquet files of a folder and of the folder ``data`` in it, or a Parquet file itself."""
    if root.is_file():
        return [root] if root.suffix == ".parquet" else []
    return sorted(path for path in (*root.glob("*.parquet"), *root.glob("data/*.parquet")) if path.is_file())


def find_parquet(root: Path, name: str) -> Source:
    """Find a file or folder of Parquet in Hugging Face image layout.

    Files named ``test*`` are the test images (``validation*`` if there are none), all others but ``validation*`` the
    training images. Without test images a fixed stratified 20 % is held out.
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


def _read_parquet(name: str, train: list[Path], test: list[Path], note: str, form: Form) -> Content:
    columns, classes_of = zip(*map(read_labels, train + test), strict=True)
    names = next(filter(None, classes_of[: len(train)]), None)
    tests = join(columns[len(train) :]) if test else None
    classes, labels, test_labels = number_labels(join(columns[: len(train)]), tests, names)
    plan = decoder(blobs(train), form)
    if test_labels is not None:
        parts = plan.part(labels, partial(blobs, train)), plan.part(test_labels, partial(blobs, test))
        return Content(classes, *parts, note, plan.findings)
    splits = test_split(labels, name, str(train[0]), "*.parquet file")
    remaining, held = (plan.part(labels[rows], partial(blobs, train, rows)) for rows in splits)
    return Content(classes, remaining, held, TEST_NOTE, plan.findings)


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a Parquet file; refuse one that declares more rows or bytes than it can have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            stored, rows = path.stat().st_size, file.metadata.num_rows
            if rows > stored:
                raise ValueError(
                    f"{path} says that it has {rows} rows in {stored} bytes: it is damaged, write it again"
                )
            check_declared(_bytes_of(file.metadata), stored, str(path))
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: copy it again") from error


def _bytes_of(metadata: Any) -> int:
    """Return the bytes of all rows, as the file declares them."""
    return sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))


def read_labels(path: Path) -> tuple[Column, tuple[str, ...] | None]:
    """Read the label column of a file after checking its schema, and its class names, if it has some."""
    with open_parquet(path) as file:
        _check_columns(path, file.schema_arrow)
        labels = _column(file.read(columns=["label"]).column("label"), str(path))
        return labels, class_names(file.schema_arrow, str(path))


def _check_columns(path: Path, schema: Any) -> None:
    """Refuse a file without exactly one column of images and one of labels."""
    import pyarrow as pa

    missing = [name for name in ("image", "label") if name not in schema.names]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]} (it has {', '.join(schema.names)}): rename its columns to {COLUMNS}"
        )
    if twice := [name for name in ("image", "label") if schema.names.count(name) > 1]:
        raise ValueError(f"{path} has {schema.names.count(twice[0])} columns {twice[0]}: keep one")
    image = schema.field("image").type
    index = image.get_field_index("bytes") if pa.types.is_struct(image) else -1
    if index < 0 or not (pa.types.is_binary(kind := image.field(index).type) or pa.types.is_large_binary(kind)):
        raise ValueError(f"{path} has images of type {image}: write {COLUMNS}")


def _column(values: Any, origin: str) -> Column:
    """Return a column of Parquet as labels: whole numbers, words, or a dictionary of either."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise ValueError(
            f"{origin} has {values.null_count} images without a label, the first in row {row}: remove those rows"
        )
    kind = values.type
    known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    if not any(is_kind(kind) for is_kind in (*known, pa.types.is_large_string, pa.types.is_string_view)):
        raise ValueError(f"{origin} has labels of type {kind}: {ONE_LABEL}")
    words = np.array(values.to_pylist(), dtype=object) if "string" in str(kind) else values.to_numpy()
    return column(np.asarray(words), origin)


def class_names(schema: Any, origin: str) -> tuple[str, ...] | None:
    """Return the class names in a schema's Hugging Face metadata, or None."""
    try:
        value = parse((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError as error:
        raise ValueError(
            f"{origin}: its Hugging Face metadata is no JSON ({one_line(error)}): write it again"
        ) from None
    for key in ("info", "features", "label", "names"):
        value = value.get(key) if isinstance(value, dict) else None
    return tuple(str(name) for name in value) or None if isinstance(value, list) else None


def blobs(files: Sequence[Path], rows: NDArray[np.int64] | None = None) -> Iterator[Blob]:
    """Yield the encoded images of files in order, or those of some rows."""
    wanted = None if rows is None else set(rows.tolist())
    for row, (name, encoded) in enumerate(pair for path in files for pair in _encoded(path)):
        if wanted is None or row in wanted:
            yield Blob(name, partial(bytes, encoded))


def _encoded(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each image's name and bytes, reading a few megabytes at a time."""
    with open_parquet(path) as file:
        each = max(1, _bytes_of(file.metadata) // max(1, file.metadata.num_rows))
        batches = file.iter_batches(batch_size=max(1, min(1024, BATCH_BYTES // each)), columns=["image"])
        encoded = (value for batch in batches for value in batch.column("image").field("bytes").to_pylist())
        for row, value in enumerate(encoded):
            yield f"{path} row {row}", value or b""
