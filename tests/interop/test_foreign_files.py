"""Files as the official scripts write them, without a word of ours beside them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raydd.config.schema import DataConfig
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.interop.layouts import LAYOUTS, detect
from raydd.interop.reading import read_synset
from raydd.interop.writing import write_synset
from raydd.numerics.formation import Formation

DIGITS = DataConfig(dataset="digits")
ZCA = DataConfig(dataset="digits", preprocessing="zca")
IPC = 2


@pytest.fixture
def images():
    return torch.randn(10 * IPC, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    """As the scripts make them: ipc ones a class, times its number."""
    return torch.tensor(np.array([np.ones(IPC) * i for i in range(10)]), dtype=torch.long).view(-1)


@pytest.fixture
def logits():
    return torch.randn(10 * IPC, 10, generator=torch.Generator().manual_seed(1))


def assert_read(read, layout, images, labels, lr=0.01, kind="normalise"):
    assert read.layout == layout
    assert torch.equal(read.synset.images, images)
    assert torch.equal(read.synset.labels, labels)
    assert read.synset.labels.dtype == (torch.float32 if labels.ndim == 2 else torch.int64)
    assert float(read.synset.lr) == pytest.approx(lr, 1e-7)
    assert read.synset.transform.kind == kind
    data = load_dataset("digits")
    assert (read.synset.dataset, read.synset.classes) == ("digits", data.classes)
    assert read.synset.recipe["data"]["preprocessing"] == kind
    assert read.synset.provenance["fingerprint"] == data.fingerprint


def test_mtt(images, labels, tmp_path):
    learned = images.clone().requires_grad_(True)
    with torch.no_grad():
        torch.save(learned.cpu(), tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    torch.save(images, tmp_path / "images_0.pt")
    for path in (tmp_path, tmp_path / "images_best.pt"):
        assert_read(read_synset(path, data=ZCA, lr=0.02), "mtt", images, labels, 0.02, "zca")
    read = read_synset(tmp_path, data=DIGITS)
    assert_read(read, "mtt", images, labels)
    assert [note.split(":")[0] for note in read.notes] == ["preprocessing is not kept", "lr is not kept"]


def test_datm(images, labels, logits, tmp_path):
    soft = logits.clone().requires_grad_(True)
    torch.save(images, tmp_path / "images_best.pt")
    torch.save(soft, tmp_path / "labels_best.pt")
    torch.save(torch.tensor(0.0321, requires_grad=True).detach(), tmp_path / "lr_best.pt")
    assert_read(read_synset(tmp_path, data=ZCA), "datm", images, logits, 0.0321, "zca")
    assert read_synset(tmp_path, data=ZCA).notes == ()
    assert_read(read_synset(tmp_path, data=ZCA, lr=0.5), "datm", images, logits, 0.5, "zca")


@pytest.mark.parametrize("name", ["data_best.pt", "data.pt"])
def test_tgdd_and_idc(name, images, labels, tmp_path):
    pixels = images.sigmoid()
    torch.save([pixels, labels], tmp_path / name)
    transform = fit_transform("normalise", load_dataset("digits"))
    for path in (tmp_path, tmp_path / name):
        read = read_synset(path, data=DIGITS)
        assert_read(read, "tgdd", transform(pixels), labels)
        assert any("--factor" in note for note in read.notes)
    synset = read_synset(tmp_path, data=DIGITS, formation=Formation(2)).synset
    assert (synset.formation, len(synset.images), len(synset.decoded().images)) == (Formation(2), 20, 80)


def test_idc_leaves_some_pixels_a_little_outside_0_to_1(images, labels, tmp_path):
    pixels = images.sigmoid()
    pixels[0, 0, 0, :2] = torch.tensor([-0.01, 1.02])
    torch.save([pixels, labels], tmp_path / "data.pt")
    read = read_synset(tmp_path, data=DataConfig(dataset="digits", preprocessing="raw01"))
    assert torch.equal(read.synset.images, pixels)
    assert any(note.startswith("2 of 1280 pixels outside [0, 1] (-0.01 to 1.02)") for note in read.notes)


@pytest.mark.parametrize("name", ["res_DM_CIFAR10_ConvNet_2ipc.pt", "res_CIFAR10_ConvNet_2ipc.pt"])
def test_dc_dsa_and_dm(name, images, labels, tmp_path):
    """Accuracies are NumPy numbers, as `np.sum` and division make them."""
    runs = [[images + 1, labels], [images, labels]]
    torch.save({"data": runs, "accs_all_exps": {"ConvNet": [np.float64(0.5), np.float32(0.25)]}}, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        read = read_synset(path, data=DIGITS)
        assert_read(read, "dc", images, labels)
        assert "the last of 2 runs is read" in read.notes


def test_numbers_of_numpy_1_are_read(images, labels, tmp_path):
    path = tmp_path / "res_DC.pt"
    value = {"data": [(images, labels)], "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}
    torch.save(value, path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != path.read_bytes()
    path.write_bytes(old)
    assert_read(read_synset(path, data=DIGITS), "dc", images, labels)


@pytest.mark.parametrize("parts", [1, 5])
def test_dcbench(parts, images, labels, tmp_path):
    home = tmp_path / "TM" / "CIFAR10" / "IPC2"
    home.mkdir(parents=True)
    for part, (some, classes) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
        suffix = "best" if parts == 1 else f"best_{part}"
        torch.save(some.clone(), home / f"images_{suffix}.pt")
        torch.save(classes.float(), home / f"labels_{suffix}.pt")  # the loader calls .long()
    for path in (tmp_path, home):
        assert_read(read_synset(path, data=DIGITS), "dcbench", images, labels)


def test_dcbench_asks_for_tiny_imagenet_in_five_parts(tmp_path):
    classes = tuple(str(label) for label in range(2))
    transform = fit_transform("raw01", load_dataset("digits"))
    images, labels = torch.rand(100, 1, 2, 2), torch.arange(2).repeat_interleave(50)
    synset = SyntheticSet(images, labels, torch.tensor(0.1), transform, "tiny_imagenet", classes)
    paths = write_synset(synset, tmp_path, "dcbench").paths
    home = tmp_path / "TM" / "tinyimagenet" / "IPC50"
    assert {path.name for path in paths} >= {
        f"{name}_best_{part}.pt" for name in ("images", "labels") for part in range(5)
    }
    found = [torch.load(home / f"images_best_{part}.pt", weights_only=True) for part in range(5)]
    assert torch.equal(torch.cat(found), images)
    assert max(path.stat().st_size for path in home.glob("images*")) < 3000  # not the whole storage in each


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_ddranking(soft, plain, images, labels, logits, tmp_path):
    values = {"images": images, "labels": logits if soft else labels, "lr": 0.0625 if plain else torch.tensor(0.0625)}
    for name, value in values.items():
        torch.save(value, tmp_path / f"{name}.pt")
    assert_read(read_synset(tmp_path, data=ZCA), "ddranking", images, values["labels"], 0.0625, "zca")


def test_ddranking_with_classes_by_position(images, labels, tmp_path):
    torch.save(images, tmp_path / "images.pt")
    read = read_synset(tmp_path, data=DIGITS)
    assert_read(read, "ddranking", images, labels)
    assert any("by position, 2 images each" in note for note in read.notes)


@pytest.mark.parametrize("called", ["{}", "{:03d}", "{0:05d}_{0}"])
def test_png(called, tmp_path):
    bytes_ = torch.randint(0, 256, (20, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for index, pixels in enumerate(bytes_):
        path = tmp_path / called.format(index // 2) / f"{index % 2:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
    expected = fit_transform("normalise", load_dataset("digits"))(bytes_[:, None])
    read = read_synset(tmp_path, data=DIGITS)
    assert_read(read, "png", expected, torch.arange(10).repeat_interleave(2))


def test_hugging_face_pictures(tmp_path):
    """A set of pictures and labels alone, as `Dataset.to_parquet` writes it."""
    source = Path(write_synset(digits(), tmp_path / "ours", "hf").paths[0])
    table = pq.read_table(source).select(["image", "label"])
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [str(n) for n in range(10)]}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "train.parquet")
    read = read_synset(tmp_path / "train.parquet", data=DIGITS)
    assert_read(read, "hf", digits().images, digits().labels)
    assert any("8 bits a pixel" in note for note in read.notes)


@pytest.mark.parametrize("name", ["test-00000-of-00001.parquet", "validation.parquet"])
def test_a_parquet_file_that_is_named_is_read_however_it_is_called(name, tmp_path):
    source = Path(write_synset(digits(), tmp_path / "ours", "hf").paths[0])
    source.rename(tmp_path / name)
    assert_read(read_synset(tmp_path / name, data=DIGITS), "hf", digits().images, digits().labels)
    with pytest.raises(ValueError, match=r"no train\*\.parquet"):  # in a folder such a file is of test images
        read_synset(tmp_path, layout="hf", data=DIGITS)


@pytest.mark.parametrize("number", [np.float64(0.0625), np.float32(0.0625), np.int64(2)])
def test_step_sizes_may_be_numpy_numbers(number, images, logits, tmp_path):
    for name, value in {"images": images, "labels": logits, "lr": number}.items():
        torch.save(value, tmp_path / f"{name}_best.pt")
    assert_read(read_synset(tmp_path, data=ZCA), "datm", images, logits, float(number), "zca")


def digits(each=3):
    """The first images of each class."""
    data = load_dataset("digits")
    rows = torch.cat([torch.nonzero(data.train.targets == label).flatten()[:each] for label in range(10)])
    transform = fit_transform("normalise", data)
    labels = torch.arange(10).repeat_interleave(each)
    return SyntheticSet(transform(data.train.take(rows)), labels, torch.tensor(0.1), transform, "digits", data.classes)


@pytest.mark.parametrize("soft", [False, True])
def test_an_exported_parquet_is_a_data_set_of_its_own(soft, tmp_path):
    synset = digits(each=10)
    if soft:
        synset = synset.with_leaves({"labels": torch.nn.functional.one_hot(synset.labels, 10) * 4.0})
    (path, _) = write_synset(synset, tmp_path / "set", "hf").paths
    data = load_dataset(tmp_path / "set", validation=0.0)
    assert data.classes == synset.classes
    assert (data.channels, data.size, len(data.train) + len(data.test)) == (1, 8, 100)
    held = data.train.take(torch.arange(len(data.train))).float() / 255
    assert float(held.min()) >= 0
    every = synset.pixels()
    assert all(any(torch.allclose(one, other, atol=1e-6) for other in every) for one in held[:5])
    schema = pq.read_schema(path)
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"_type": "ClassLabel", "names": list(synset.classes)}
    assert set(features) == set(schema.names) == {"image", "label", "pixels"} | ({"soft_label"} if soft else set())
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("layout", ["mtt", "datm", "tgdd", "dc", "dcbench", "ddranking"])
def test_exports_are_what_the_scripts_load(layout, tmp_path):
    """The very expressions of the official scripts, on files of ours."""
    synset = digits()
    if layout == "datm":
        synset = synset.with_leaves({"labels": torch.randn(30, 10)})
    write_synset(synset, tmp_path, layout)
    loaded = {
        "mtt": lambda: (opened("images_best.pt"), opened("labels_best.pt")),
        "datm": lambda: (opened("images_best.pt"), opened("labels_best.pt"), opened("lr_best.pt").item()),
        "tgdd": lambda: tuple(opened("data.pt")),
        "dc": lambda: opened("res_DM_digits_ConvNet_3ipc.pt")["data"][-1],
        "dcbench": lambda: (opened("TM/digits/IPC3/images_best.pt"), opened("TM/digits/IPC3/labels_best.pt").long()),
        "ddranking": lambda: (opened("images.pt"), opened("labels.pt"), opened("lr.pt").item()),
    }

    def opened(name):
        return torch.load(tmp_path / name, map_location="cpu", weights_only=True)

    images, labels, *lr = loaded[layout]()
    assert torch.equal(synset.transform(images) if layout == "tgdd" else images, synset.images)
    assert (images.dtype, images.requires_grad) == (torch.float32, False)
    assert torch.equal(labels, synset.labels)
    assert lr in ([], [float(synset.lr)])


def test_a_path_is_of_the_layout_whose_files_it_holds(images, labels, tmp_path):
    for name, layout in LAYOUTS.items():
        soft = layout.labels == ("logits",)
        synset = digits()
        write_synset(synset.with_leaves({"labels": torch.randn(30, 10)}) if soft else synset, tmp_path / name, name)
        assert detect(tmp_path / name)[0] == name
    torch.save([images, labels], tmp_path / "mine.pt")
    assert detect(tmp_path / "mine.pt", "tgdd") == ("tgdd", tmp_path / "mine.pt")


def test_files_of_old_torch_are_read(images, labels, tmp_path):
    for name, value in {"images_best": images, "labels_best": labels}.items():
        torch.save(value, tmp_path / f"{name}.pt", _use_new_zipfile_serialization=False)
    assert_read(read_synset(tmp_path, data=DIGITS), "mtt", images, labels)
