import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydd.data.datasets import load_dataset
from raydd.data.image_source import holdout

RNG = np.random.default_rng(1)


def pictures(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path: Path, images: np.ndarray, labels: list[int], names: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(image), "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), "label": pa.array(labels, pa.int64())})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=3)


def write_images(root: Path, classes: dict[str, int], side: tuple[int, ...] = (8, 8, 3)) -> dict[str, np.ndarray]:
    written = {}
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        written[name] = pictures(count, *side)
        for i, image in enumerate(written[name]):
            (root / name / f"{i}.png").write_bytes(png(image))
    return written


def write_npz(path: Path, **changes: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {
        "x_train": pictures(6, 8, 8, 3),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": pictures(2, 8, 8, 3),
        "y_test": np.array([2, 0]),
    } | changes
    np.savez(path, **arrays)
    return arrays


def check_refused(path: Path, match: str, **options: object) -> None:
    """Loading fails with one line, and nothing is written."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ValueError, match=match) as caught:
        load_dataset(path, cache=path.parent / "cache", **options)
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before


def test_parquet_pixels_labels_and_names(tmp_path: Path) -> None:
    root = tmp_path / "set"
    train, test = pictures(7, 8, 8, 3), pictures(2, 8, 8, 3)
    write_parquet(root / "train-0.parquet", train[:4], [0, 1, 1, 0], ["cat", "dog"])
    write_parquet(root / "train-1.parquet", train[4:], [1, 1, 0], ["cat", "dog"])
    write_parquet(root / "test.parquet", test, [1, 0], ["cat", "dog"])
    data = load_dataset(root, cache=tmp_path / "cache", validation=0)
    assert (data.name, data.classes, data.flip, data.note) == ("set", ("cat", "dog"), False, "")
    assert np.array_equal(data.train.images, train.transpose(0, 3, 1, 2))
    assert np.array_equal(data.test.images, test.transpose(0, 3, 1, 2))
    assert data.train.targets.tolist() == [0, 1, 1, 0, 1, 1, 0]
    pixels = train.reshape(-1, 3) / 255
    assert data.mean == pytest.approx(pixels.mean(0), rel=1e-12)
    assert data.std == pytest.approx(pixels.std(0), rel=1e-9)


def test_statistics_are_those_of_the_train_split_alone(tmp_path: Path) -> None:
    arrays = write_npz(
        tmp_path / "a.npz", x_train=pictures(12, 8, 8), x_test=pictures(2, 8, 8), y_train=np.arange(12) % 3
    )
    data = load_dataset(tmp_path / "a.npz", cache=tmp_path / "cache", validation=0.25)
    assert len(data.validation) == 3
    pixels = arrays["x_train"][data.train.index] / 255
    assert data.mean[0] == pytest.approx(pixels.mean(), rel=1e-12)
    assert data.std[0] == pytest.approx(pixels.std(), rel=1e-9)


def test_a_constant_channel_has_a_usable_std(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", x_train=np.full((6, 8, 8, 3), 7, np.uint8))
    assert load_dataset(tmp_path / "a.npz", cache=tmp_path / "cache").std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("layout", ["folder with data", "single file"])
def test_parquet_without_test_holds_out_a_fifth(tmp_path: Path, layout: str) -> None:
    images, labels = pictures(20, 8, 8), [i % 2 for i in range(20)]
    path = tmp_path / ("set/data/train-00000.parquet" if layout == "folder with data" else "set.parquet")
    write_parquet(path, images, labels)
    data = load_dataset(tmp_path / path.relative_to(tmp_path).parts[0], cache=tmp_path / "cache", validation=0)
    kept, held = holdout(np.array(labels), 0.2, "test", "set")
    assert len(held) == 4
    assert np.array_equal(np.asarray(data.train.images)[:, 0], images[kept])
    assert np.array_equal(np.asarray(data.test.images)[:, 0], images[held])
    assert data.test.targets.tolist() == [labels[row] for row in held]
    assert "20 %" in data.note
    assert data.classes == ("0", "1")


def test_parquet_validation_files_stand_in_for_missing_test_files(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_parquet(root / "train.parquet", pictures(4, 8, 8, 3), [0, 1, 0, 1])
    write_parquet(root / "validation.parquet", pictures(3, 8, 8, 3), [0, 1, 0])
    data = load_dataset(root, cache=tmp_path / "cache")
    assert len(data.test) == 3
    assert "validation*.parquet is the test split" in data.note
    write_parquet(root / "test.parquet", pictures(2, 8, 8, 3), [0, 1])
    data = load_dataset(root, cache=tmp_path / "cache")
    assert len(data.test) == 2
    assert "not used" in data.note


def test_bad_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 no table PAR1")
    check_refused(path, "x.parquet is not a readable Parquet file")
    pq.write_table(pa.table({"img": [1], "label": [0]}), path)
    check_refused(path, r"no column image \(it has img, label\): rename")
    pq.write_table(pa.table({"image": [1], "label": [0]}), path)
    check_refused(path, "images of type int64")
    write_parquet(path, pictures(4, 8, 8, 3), [0, 1, 2, -1], ["a", "b", "c"])
    check_refused(path, "x.parquet row 3 has the label -1: give one label an image")
    write_parquet(path, pictures(4, 8, 8, 3), [0, 1, 3, 3], ["a", "b", "c"])
    check_refused(path, "label 3: labels must be 0..2")
    write_parquet(path, pictures(3, 8, 8, 3), [0, 2, 2])
    check_refused(path, "no image of class 1")
    write_parquet(path, pictures(3, 8, 8, 3), [0, 1, 1])
    check_refused(path, "too few images for a test split")


def test_a_parquet_cell_that_is_no_image_is_named(tmp_path: Path) -> None:
    cells = [{"bytes": png(image), "path": None} for image in pictures(9, 8, 8, 3)] + [{"bytes": None, "path": "a.png"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [0] * 10}), tmp_path / "x.parquet")
    check_refused(tmp_path / "x.parquet", r"x.parquet row 9 is not a readable image")


def test_image_folder_with_train_and_test(tmp_path: Path) -> None:
    root = tmp_path / "set"
    train = write_images(root / "train", {"b": 3, "a": 2})
    test = write_images(root / "test", {"b": 1})
    (root / "train" / "a" / ".hidden").write_text("x")
    (root / "README.md").write_text("x")
    data = load_dataset(root, cache=tmp_path / "cache")
    assert data.classes == ("a", "b")
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    expected = np.concatenate([train["a"], train["b"]]).transpose(0, 3, 1, 2)
    assert np.array_equal(data.train.images, expected)
    assert np.array_equal(data.test.images, test["b"].transpose(0, 3, 1, 2))
    assert data.test.labels.tolist() == [1]


def test_image_folder_of_classes_holds_out_a_fifth(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"x": 10, "y": 5})
    data = load_dataset(tmp_path / "set", cache=tmp_path / "cache", validation=0)
    assert np.bincount(data.train.labels).tolist() == [8, 4]
    assert np.bincount(data.test.labels).tolist() == [2, 1]
    assert "20 %" in data.note


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_grey_unless_there_is_colour(tmp_path: Path, channels: int) -> None:
    write_images(tmp_path / "set" / "train", {"a": 3}, (8, 8))
    write_images(tmp_path / "set" / "train", {"b": 2}, (8, 8, 3) if channels == 3 else (8, 8))
    write_images(tmp_path / "set" / "test", {"a": 1}, (8, 8))
    assert load_dataset(tmp_path / "set", cache=tmp_path / "cache").channels == channels


def test_bad_image_folders_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    check_refused(root, "set has no class folders")
    write_images(root, {"a": 4, "b": 4})
    (root / "c").mkdir()
    check_refused(root, "set/c has no images")
    (root / "c").rmdir()
    (root / "b" / "notes.txt").write_text("no image")
    check_refused(
        root, r"set/b/notes.txt is not a readable image \(not a picture of a format that is read\): repair or remove"
    )
    (root / "b" / "notes.txt").unlink()
    data = (root / "b" / "0.png").read_bytes()
    (root / "b" / "0.png").write_bytes(data[: len(data) // 2])
    check_refused(root, r"set/b/0.png is not a readable image \(damaged")


def test_a_test_class_that_training_lacks_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "train", {"a": 1})
    write_images(tmp_path / "set" / "val", {"a": 1, "z": 1})
    check_refused(tmp_path / "set", "val/z is a class that .*train does not have")


def test_other_sizes_need_a_size(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_images(root, {"a": 4}, (8, 8, 3))
    write_images(root, {"b": 4}, (12, 9, 3))
    check_refused(root, r"8x8 and .*/b/.*png is 9x12: give one size .*--set data.size=64")
    data = load_dataset(root, cache=tmp_path / "cache", size=6)
    assert np.asarray(data.train.images).shape[1:] == (3, 6, 6)
    write_images(tmp_path / "wide", {"a": 4}, (8, 10, 3))
    check_refused(tmp_path / "wide", "10x8, which is not square: give one size")
    check_refused(tmp_path / "wide", "size = 0: input should be greater than or equal to 1", size=0)


def test_resizing_keeps_the_centre_and_the_aspect(tmp_path: Path) -> None:
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, 8:16] = 200  # the middle third is the centre crop
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "set" / "a" / f"{i}.png").write_bytes(png(image))
    data = load_dataset(tmp_path / "set", cache=tmp_path / "cache", size=8)
    assert np.all(np.asarray(data.train.images) == 200)
    half = load_dataset(tmp_path / "set", cache=tmp_path / "cache", size=4)
    assert np.all(np.asarray(half.train.images)[..., 1:3] == 200)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NHWC": lambda x: x.transpose(0, 2, 3, 1),
    "NCHW": lambda x: x,
    "NHW": lambda x: x[:, 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_npz_layouts(tmp_path: Path, layout: str) -> None:
    channels = 1 if layout == "NHW" else 3
    train, test = pictures(6, channels, 8, 8), pictures(2, channels, 8, 8)
    to = LAYOUTS[layout]
    write_npz(tmp_path / "a.npz", x_train=to(train), x_test=to(test), y_train=np.array([[0], [1], [2], [0], [1], [2]]))
    data = load_dataset(str(tmp_path / "a.npz"), cache=tmp_path / "cache")
    assert np.array_equal(data.train.images, train)
    assert np.array_equal(data.test.images, test)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.name, data.classes) == ("a", ("0", "1", "2"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x_train": pictures(6, 8, 8, 3).astype(np.float32)}, "x_train of float32 and x_test of uint8: save both"),
        ({"x_train": np.array(["a"] * 6)}, "x_train is of type <U1: save images as uint8"),
        ({"x_train": np.zeros((6, 8, 8, 3), np.complex64)}, "x_train is of type complex64: save images as uint8"),
        ({"x_train": np.zeros((6, 0, 0, 3), np.uint8)}, r"shape \(6, 0, 0, 3\), which holds no pixel"),
        ({"x_train": pictures(6, 8, 8, 5)}, r"shape \(6, 8, 8, 5\)"),
        ({"x_train": pictures(6, 8, 9, 3), "x_test": pictures(2, 8, 9, 3)}, "9x8 and 9x8, not square"),
        ({"x_test": pictures(2, 9, 9, 3)}, "8x8 and 9x9"),
        ({"x_test": pictures(2, 8, 8)}, "3 channels in x_train and 1"),
        ({"y_train": np.array([0.0, 1.5, 2, 0, 1, 2])}, "y_train row 1 has the label 1.5: save whole numbers"),
        ({"y_train": np.array([0.0, 1, np.nan, 0, 1, 2])}, "y_train row 2 has the label nan: save whole numbers"),
        ({"y_train": np.eye(6)}, r"labels of type float64 and shape \(6, 6\)"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 2**63], np.uint64)}, "row 5 has the label 9223372036854775808"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 10**8])}, "y_train has the label 100000000 and 6 images"),
        ({"y_train": np.array(["a", "b"] * 3)}, "y_train has words for labels and .*y_test has numbers"),
        ({"classes": np.array(["a", "b"])}, "y_train has the label 2: labels must be 0..1"),
        ({"classes": np.array(["a", "b", "a"])}, "names two classes 'a'"),
        ({"classes": np.array(["a", "b", ""])}, "classes row 2 has no label"),
        ({"classes": np.array(["a", "b", 3], dtype=object)}, "classes holds Python objects"),
        ({"y_train": np.array([0, 2, 2, 0, 2, 2])}, "no image of class 1"),
        ({"y_test": np.array([0, 3])}, "y_test has the label 3: labels must be 0..2"),
        ({"y_test": np.array([0])}, "of one length"),
        ({"y_train": np.array([None] * 6)}, "y_train holds Python objects, which are not read"),
    ],
)
def test_bad_npz_is_refused(tmp_path: Path, changes: dict[str, np.ndarray], match: str) -> None:
    write_npz(tmp_path / "a.npz", **changes)
    check_refused(tmp_path / "a.npz", match)


def test_unreadable_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x_train=pictures(2, 8, 8))
    check_refused(path, "a.npz has no y_train: save it with x_train, y_train, x_test, y_test")
    path.write_bytes(b"no archive at all")
    check_refused(path, "a.npz is not a readable .npz file")
    write_npz(path)
    path.write_bytes(path.read_bytes()[:-200])
    check_refused(path, "a.npz is not a readable .npz file")


def test_unknown_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'cifar11': did you mean cifar10 or cifar100.* or a path"):
        load_dataset("cifar11", cache=tmp_path)
    check_refused(tmp_path / "nowhere", "nowhere does not exist: give a path")
    (tmp_path / "a.csv").write_text("x")
    check_refused(tmp_path / "a.csv", "a.csv is no data set")
