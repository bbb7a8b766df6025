"""Sets as Hugging Face Parquet: pictures to look at, and the exact numbers beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydd.data.labels import class_numbers
from raydd.data.parquet_reader import blobs, open_parquet, parquet_files, read_labels
from raydd.interop.foreign import Foreign, Outgoing
from raydd.interop.pictures import decode_pictures, encode
from raydd.interop.pixels import as_bytes
from raydd.io.files import write_atomic

FILE = "data/train-00000-of-00001.parquet"


def write_parquet(out: Outgoing, folder: Path) -> list[Path]:
    """Write one file: ``image`` (PNG), ``label``, ``pixels`` (C, H, W) of a network's input, ``soft_label``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    synset, images = out.synset, out.images
    pictures = [{"bytes": encode(one), "path": f"{row:05d}.png"} for row, one in enumerate(as_bytes(synset.pixels()))]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array(pictures, struct),
        "label": pa.array(synset.hard_labels.numpy(), pa.int64()),
        "pixels": pa.array(_nested(images.numpy())),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(synset.classes), "_type": "ClassLabel"},
        "pixels": {"shape": list(images.shape[1:]), "dtype": "float32", "_type": "Array3D"},
    }
    if synset.label_kind == "logits":
        columns["soft_label"] = pa.array(_nested(synset.labels.numpy()))
        value = {"dtype": "float32", "_type": "Value"}
        features["soft_label"] = {"feature": value, "length": len(synset.classes), "_type": "Sequence"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return [write_atomic(folder / FILE, sink.getvalue())]


def _nested(values: np.ndarray[Any, Any]) -> list[Any]:
    """Return an array (N, ...) as nested lists of rows."""
    return list(values) if values.ndim == 2 else [_nested(value) for value in values]


def read_parquet(path: Path, classes: tuple[str, ...]) -> Foreign:
    """Read the rows of a file, or of all training files of a folder; from ``image`` if there are no ``pixels``."""
    spared = ("test", "val") if path.is_dir() else ()  # a file that the user names is read, whatever its name
    files = [file for file in parquet_files(path) if not file.name.startswith(spared)]
    if not files:
        raise ValueError(f"{path} has no train*.parquet: name the file itself")
    tables = [_table(file, classes) for file in files]
    names = {name for table in tables for name in table.column_names}
    joined = {
        name: np.concatenate([_array(f, t, name) for f, t in zip(files, tables, strict=True)])
        for name in ("label", "soft_label", "pixels")
        if name in names
    }
    labels = torch.from_numpy(joined.get("soft_label", joined["label"]))
    if "pixels" in joined:
        return Foreign(torch.from_numpy(joined["pixels"]), labels)
    note = "no column pixels: images are read from the pictures, 8 bits a pixel"
    images, notes = decode_pictures([*blobs(files)])
    return Foreign(images, labels, notes=(note, *notes), space="bytes")


def _table(file: Path, classes: tuple[str, ...]) -> Any:
    """Read a file of these classes, with numbers in the place of words in the labels."""
    import pyarrow as pa

    labels, names = read_labels(file)
    with open_parquet(file) as parquet:
        table = parquet.read()
    if names and names != classes:
        raise ValueError(
            f"{file} has the classes {', '.join(names[:5])}, the data set has {', '.join(classes[:5])}: "
            "name the right --dataset"
        )
    if not labels.words:
        return table
    return table.set_column(table.column_names.index("label"), "label", pa.array(class_numbers(labels, classes)))


def _array(file: Path, table: Any, name: str) -> np.ndarray[Any, Any]:
    """Return a column of numbers, or of nested lists of one length each, as an array."""
    import pyarrow as pa

    if name not in table.column_names:
        raise ValueError(f"{file} has no column {name}, which other files have: copy it again")
    column = table.column(name).combine_chunks()
    shape = [len(column)]
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        inner = column.flatten()
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) != 1 or column.null_count:
            raise ValueError(f"{file} has rows of different lengths in {name}: write lists of one length")
        shape.append(int(lengths[0]))
        column = inner
    if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise ValueError(f"{file} has values of type {column.type} or none in {name}: write numbers")
    return np.array(column.to_numpy(zero_copy_only=False)).reshape(shape)
