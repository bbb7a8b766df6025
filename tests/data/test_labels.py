"""Labels of outside files: words become class names, and what a file says of its size is bounded first."""

import io
import json
import os
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raydd.config.parsing import build
from raydd.config.schema import DistillConfig
from raydd.data.datasets import Dataset, load_dataset
from raydd.data.labels import column, number_labels
from raydd.data.parquet_reader import class_names
from raydd.data.preprocessing import fit_transform
from raydd.interop.parquet import read_parquet
from raydd.io.bounded_file import check_declared
from raydd.methods import complete
from raydd.run.resolve import check_run


def png(value: int) -> dict[str, Any]:
    stream = BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def write(root: Path, train: Any, test: Any = None, names: list[str] | None = None) -> Path:
    """Parquet files of images whose pixels are their rows."""
    root.mkdir(exist_ok=True)
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    for split, labels in (("train", train), ("test", train if test is None else test)):
        table = pa.table({"image": [png(row) for row in range(len(labels))], "label": labels})
        if names:
            table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(table, root / f"{split}.parquet")
    return root


def load(path: Path) -> Dataset:
    return load_dataset(path, cache=path.parent / "cache", validation=0)


WORDS = ["owl", "cat", "dog", "cat"]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(WORDS),
        pa.array(WORDS, pa.large_string()),
        pa.array(WORDS, pa.string_view()),
        pa.array(WORDS).dictionary_encode(),
    ],
    ids=["string", "large", "view", "dictionary"],
)
def test_words_are_class_names_in_order(labels: Any, tmp_path: Path) -> None:
    data = load(write(tmp_path / "set", labels, pa.array(["dog", "dog"])))
    assert data.classes == ("cat", "dog", "owl")
    assert data.train.targets.tolist() == [2, 0, 1, 0]
    assert data.test.targets.tolist() == [1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert data.note == "the test split has no image of 2 of 3 classes (cat, owl)"


@pytest.mark.parametrize(
    ("labels", "classes", "targets"),
    [
        (pa.array([True, False, True]), ("false", "true"), [1, 0, 1]),
        (pa.array([1.0, 0.0, 1.0]), ("0", "1"), [1, 0, 1]),
        (pa.array([1, 0, 1], pa.uint8()), ("0", "1"), [1, 0, 1]),
        (pa.array([1, 0, 1], pa.int64()).dictionary_encode(), ("0", "1"), [1, 0, 1]),
        (pa.array(["10", "9", "10"]), ("10", "9"), [0, 1, 0]),
    ],
)
def test_other_labels(labels: Any, classes: tuple[str, ...], targets: list[int], tmp_path: Path) -> None:
    data = load(write(tmp_path / "set", labels))
    assert data.classes == classes
    assert data.train.targets.tolist() == data.test.targets.tolist() == targets


def test_words_follow_the_order_of_the_names_in_the_metadata(tmp_path: Path) -> None:
    data = load(write(tmp_path / "set", pa.array(WORDS), names=["owl", "dog", "cat"]))
    assert data.classes == ("owl", "dog", "cat")
    assert data.train.targets.tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize(
    ("train", "test", "match"),
    [
        (pa.array(["a", None, "b"]), None, "has 1 images without a label, the first in row 1: remove those rows"),
        (pa.array(["a", "", "b"]), None, "row 1 has no label"),
        (pa.array(["a", "x" * 201]), None, "row 1 has a label of 201 characters"),
        (pa.nulls(3), None, "3 images without a label, the first in row 0"),
        (pa.array([0.0, float("nan")]), None, "row 1 has the label nan: save whole numbers"),
        (pa.array([0.0, 0.5]), None, "row 1 has the label 0.5: save whole numbers"),
        (pa.array([0.0, 1e300]), None, "row 1 has the label 1e"),
        (pa.array([0, -1]), None, "row 1 has the label -1: give one label an image"),
        (pa.array([0, 2**63], pa.uint64()), None, "row 1 has the label 9223372036854775808"),
        (pa.array([0, 10**12]), None, "has the label 1000000000000 and 2 images: number the classes"),
        (pa.array([0, 1]), pa.array([10**12]), "test.parquet has the label 1000000000000: labels must be 0..1"),
        (pa.array(["a", "b"]), pa.array(["a", "c"]), "test.parquet row 1 has the label 'c', the classes are a, b"),
        (pa.array(["a", "b"]), pa.array([0, 1]), "train.parquet has words for labels and .*test.parquet has numbers"),
        (pa.array([b"a", b"b"]), None, "has labels of type binary"),
        (pa.array([[0], [1]]), None, "has labels of type list"),
    ],
)
def test_labels_that_say_no_class_are_refused(train: Any, test: Any, match: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", train, test)
    with pytest.raises(ValueError, match=match) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_huge_label_takes_no_memory() -> None:
    labels = column(np.array([0, 1, 2, 10**8]), "y")
    tracemalloc.start()
    with pytest.raises(ValueError, match="y has the label 100000000 and 4 images"):
        number_labels(labels, None)
    with pytest.raises(ValueError, match=r"y has no image of class 3"):
        number_labels(column(np.array([0, 1, 2]), "y"), None, [str(label) for label in range(1000)])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_deep_metadata_are_one_line(tmp_path: Path) -> None:
    root = write(tmp_path / "set", pa.array([0, 1]))
    table = pq.read_table(root / "train.parquet").replace_schema_metadata({"huggingface": "[" * 5000})
    pq.write_table(table, root / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet: its Hugging Face metadata .*nested more than 64 deep"):
        load(root)
    with pytest.raises(ValueError, match=r"its Hugging Face metadata .*nested more than 64 deep"):
        read_parquet(root, ("0", "1"))
    with pytest.raises(ValueError, match=r"x.parquet: its Hugging Face metadata is no JSON \(Expecting"):
        class_names(pa.schema([]).with_metadata({"huggingface": "{"}), "x.parquet")


def test_words_of_numbers_that_are_no_characters_are_refused(tmp_path: Path) -> None:
    words = np.frombuffer(np.array([0x110000, 97, 98] * 2, np.uint32).tobytes(), "<U1")
    with pytest.raises(ValueError, match="y_train has labels that are no text"):
        load(npz(tmp_path / "a.npz", y_train=words))


def test_a_pipe_beside_the_tables_does_not_hang(tmp_path: Path) -> None:
    root = write(tmp_path / "set", pa.array(WORDS))
    os.mkfifo(root / "train-2.parquet")
    assert len(load(root).train) == 4


def test_imported_words_are_the_data_sets_classes(tmp_path: Path) -> None:
    root = write(tmp_path / "set", pa.array(WORDS))
    assert read_parquet(root, ("dog", "owl", "cat")).labels.tolist() == [1, 2, 0, 2]
    with pytest.raises(ValueError, match="row 0 has the label 'owl', the classes are dog, cat"):
        read_parquet(root, ("dog", "cat"))


def test_a_table_of_more_rows_than_bytes_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    rows = 2_000_000
    image = pa.StructArray.from_arrays([pa.nulls(rows, pa.binary()), pa.nulls(rows, pa.string())], ["bytes", "path"])
    labels = pa.array(np.zeros(rows, np.int64))
    pq.write_table(pa.table({"image": image, "label": labels}), root / "train.parquet", compression="zstd")
    assert (root / "train.parquet").stat().st_size < rows
    with pytest.raises(ValueError, match=r"train.parquet says that it has 2000000 rows in \d+ bytes"):
        load(root)


def test_a_table_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    cells = pa.array([bytes(8 << 20)], pa.binary())
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with pq.ParquetWriter(
        root / "train.parquet",
        pa.schema([("image", kind), ("label", pa.int64())]),
        compression="zstd",
        use_dictionary=False,
    ) as writer:
        image = pa.StructArray.from_arrays([cells, pa.nulls(1, pa.string())], ["bytes", "path"])
        for _ in range(70):
            writer.write_table(pa.table({"image": image, "label": [0]}, schema=writer.schema))
    assert (root / "train.parquet").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"train.parquet has \d+ bytes and says that it unpacks to 587"):
        load(root)


def npz(path: Path, **changes: Any) -> Path:
    arrays = {
        "x_train": np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8),
        "y_train": np.array([0, 1, 2] * 2),
        "x_test": np.zeros((3, 8, 8), np.uint8),
        "y_test": np.arange(3),
    } | changes
    np.savez_compressed(path, **arrays)
    return path


def test_an_archive_names_its_classes(tmp_path: Path) -> None:
    names = np.array(["plane", "car", "bird"])
    data = load(npz(tmp_path / "a.npz", classes=names))
    assert (data.classes, data.note) == (("plane", "car", "bird"), "")
    words = load(npz(tmp_path / "b.npz", y_train=names[[0, 1, 2, 0, 1, 2]], y_test=np.array([b"bird", b"car", b"car"])))
    assert words.classes == ("bird", "car", "plane")
    assert words.train.targets.tolist() == [2, 1, 0, 2, 1, 0]
    assert words.test.targets.tolist() == [0, 1, 1]


RAMP = np.arange(256).reshape(4, 8, 8)


@pytest.mark.parametrize(
    ("convert", "note"),
    [
        (lambda x: x.astype(np.int64), ""),
        (lambda x: x.astype(">u2"), ""),
        (lambda x: (x * 257).astype(np.uint16), "images of 16 bits are scaled to 8"),
        (lambda x: (x * 257).astype(">u2"), "images of 16 bits are scaled to 8"),
        (lambda x: (x / 255).astype(np.float32), "images of numbers in [0, 1] are rounded to 8 bits"),
        (lambda x: x / 255, "images of numbers in [0, 1] are rounded to 8 bits"),
    ],
    ids=["int64", "bytes in uint16", "uint16", "big-endian", "float32", "float64"],
)
def test_numbers_of_other_types(convert: Callable[..., Any], note: str, tmp_path: Path) -> None:
    labels = {"y_train": np.arange(4) % 2, "y_test": np.arange(4) % 2}
    data = load(npz(tmp_path / "a.npz", x_train=convert(RAMP), x_test=convert(RAMP[::-1]), **labels))
    assert np.array_equal(data.train.images[:, 0], RAMP)
    assert np.array_equal(data.test.images[:, 0], RAMP[::-1])
    assert data.note == note


def test_booleans_are_black_and_white(tmp_path: Path) -> None:
    bits = RAMP % 3 == 0
    data = load(npz(tmp_path / "a.npz", x_train=bits, x_test=bits, y_train=np.arange(4) % 2, y_test=np.arange(4) % 2))
    assert np.array_equal(data.train.images[:, 0], bits * 255)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (RAMP.astype(np.float32), r"images of float32 from 0 to 255: save numbers in \[0, 1\], or uint8, 0..255"),
        (RAMP / 255 - 0.5, r"images of float64 from -0.5 to 0.5: save numbers"),
        (np.where(RAMP == 3, np.nan, 0.5), "images of float64 from nan to nan"),
        (RAMP.astype(np.int16) - 1, "images of int16 from -1 to 254: save images as uint8"),
        (RAMP.astype(np.int64) * 257, "images of int64 from 0 to 65535: save images as uint8"),
    ],
)
def test_numbers_of_unknown_range_are_refused(images: Any, match: str, tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x_train=images, x_test=images, y_train=np.arange(4) % 2, y_test=np.arange(4) % 2)
    with pytest.raises(ValueError, match=match):
        load(path)


def forged(path: Path, key: str, header: str, data: bytes = b"") -> Path:
    """An archive one of whose arrays says something else of itself."""
    stream = io.BytesIO()
    text = header.ljust(118).encode() + b"\n"
    stream.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    with zipfile.ZipFile(npz(path)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, stream.getvalue() if name == f"{key}.npy" else content)
    return path


@pytest.mark.parametrize(
    ("key", "header", "match"),
    [
        ("x_train", "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000, 3), }", "not in the"),
        ("y_train", "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }", "not in the file"),
        ("y_train", "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }", "holds Python objects"),
        ("y_train", "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }", "not"),
        ("y_train", "(" * 5000, "is not a readable .npz file of numbers"),
    ],
)
def test_headers_are_not_believed(key: str, header: str, match: str, tmp_path: Path) -> None:
    path = forged(tmp_path / "a.npz", key, header)
    tracemalloc.start()
    with pytest.raises(ValueError, match=match) as caught:
        load(path)
    assert "a.npz" in str(caught.value)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    started = time.monotonic()
    with zipfile.ZipFile(npz(path), "a", zipfile.ZIP_DEFLATED) as archive, archive.open("classes.npy", "w") as member:
        for _ in range(36):
            member.write(bytes(16 << 20))
    wrote = time.monotonic() - started
    with pytest.raises(ValueError, match=r"a.npz has \d+ bytes and says that it unpacks to 603"):
        load(path)
    assert time.monotonic() - started < wrote + 5


def test_what_packs_as_far_as_pictures_do_is_read() -> None:
    check_declared(150 << 20, 1 << 20, "flat.npz")
    check_declared(100 << 30, 1 << 30, "large.npz")
    with pytest.raises(ValueError, match=r"bomb.npz has 1048576 bytes"):
        check_declared(1 << 30, 1 << 20, "bomb.npz")


def test_missing_classes_and_constant_channels_are_said(tmp_path: Path) -> None:
    flat = np.full((12, 8, 8, 3), 7, np.uint8)
    flat[..., 1] = np.arange(12)[:, None, None]
    labels = {"y_train": np.arange(12) % 3, "x_test": flat[:2], "y_test": np.array([0, 0])}
    path = npz(tmp_path / "a.npz", x_train=flat, **labels)
    data = load_dataset(path, cache=tmp_path / "cache", validation=0.1)
    assert data.note.split("; ") == [
        "the test split has no image of 2 of 3 classes (1, 2)",
        "the validation split is empty: no class has images enough",
        "a channel is the same in all training pixels: its standard deviation 0 is taken as 1, "
        "and networks learn nothing from it",
    ]
    assert data.std[0] == data.std[2] == 1
    assert data.std[1] == pytest.approx(flat[..., 1].std() / 255)
    normal = fit_transform("normalise", data)(data.train.take(np.arange(12)))
    assert torch.isfinite(normal).all()
    assert normal[:, 0].abs().max() < 1e-6
    assert load_dataset(path, cache=tmp_path / "cache", validation=0.5).note.count("validation") == 0


def test_a_score_without_validation_images_says_how_many_to_hold_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    path = npz(tmp_path / "a.npz", x_train=np.zeros((12, 8, 8), np.uint8), y_train=np.arange(12) % 3)
    for validation, remedy in ((0.1, 0.13), (0.0, 0.1)):
        tree = {"method": "dm", "evaluate_every": 1, "data": {"dataset": str(path), "validation": validation}}
        with pytest.raises(ValueError, match=f"there is none; use --set data.validation={remedy}, or drop"):
            check_run(complete(build(DistillConfig, tree, {"experts": {"network": "MLP"}})), torch.device("cpu"))


@pytest.mark.parametrize("name", ["image", "label"])
def test_a_doubled_column_is_refused(name: str, tmp_path: Path) -> None:
    columns = {"image": pa.array([png(1), png(2)]), "label": pa.array([0, 1])}
    names = ["image", "label", name]
    pq.write_table(pa.Table.from_arrays([columns[each] for each in names], names=names), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=rf"train.parquet has 2 columns {name}: keep one"):
        load_dataset(tmp_path, cache=tmp_path / "cache")


def test_a_class_folder_that_leads_back_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / "set" / name / f"{number}.png")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "set")
    with pytest.raises(ValueError, match=r"set/c is a link to a folder that it lies in"):
        load_dataset(tmp_path / "set", cache=tmp_path / "cache")
