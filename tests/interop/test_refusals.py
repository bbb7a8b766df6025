"""What cannot be right is refused in one line that names it and the remedy."""

import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raydd.config.schema import DataConfig
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.interop.reading import read_synset
from raydd.interop.writing import write_synset
from raydd.io.document import dump_document
from raydd.numerics.formation import Formation

DIGITS = DataConfig(dataset="digits")


@pytest.fixture
def synset():
    """Twenty digits of noise, two a class."""
    data = load_dataset("digits")
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10).repeat_interleave(2)
    transform = fit_transform("normalise", data)
    provenance = {"fingerprint": data.fingerprint}
    return SyntheticSet(images, labels, torch.tensor(0.1), transform, "digits", data.classes, provenance=provenance)


@pytest.fixture
def soft(synset):
    return synset.with_leaves({"labels": torch.randn(20, 10)})


def mtt(folder, images, labels):
    folder.mkdir(exist_ok=True)
    torch.save(images, folder / "images_best.pt")
    torch.save(labels, folder / "labels_best.pt")
    return folder


def line_of(call, *words):
    """The one line that a call is refused with, which holds the words."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are matched below
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert [word for word in words if str(word) not in line] == [], line
    return line


def refused(path, *words, **arguments):
    return line_of(lambda: read_synset(path, **{"data": DIGITS, **arguments}), *words)


class Trap:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_is_refused_and_never_run(synset, tmp_path):
    sprung = tmp_path / "sprung"
    for name, value in {
        "data_best.pt": [synset.images, synset.labels, Trap(sprung)],
        "res_DM.pt": {"data": [[synset.images, synset.labels]], "accs_all_exps": Trap(sprung)},
        "images.pt": Trap(sprung),
    }.items():
        path = tmp_path / name
        torch.save(value, path)
        line = refused(path, path, "holds code", "mkdir")
        assert "plain tensors" in line
    folder = mtt(tmp_path / "mtt", synset.images, Trap(sprung))
    refused(folder, folder / "labels_best.pt", "holds code")
    assert not sprung.exists()
    torch.load(tmp_path / "images.pt", weights_only=False)
    assert sprung.exists()  # the trap works


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 rubbish"])
def test_damaged_files(content, synset, tmp_path):
    folder = mtt(tmp_path / "mtt", synset.images, synset.labels)
    (folder / "labels_best.pt").write_bytes(content)
    refused(folder, folder / "labels_best.pt", "not a whole file")


def test_files_cut_short(synset, tmp_path):
    folder = mtt(tmp_path / "mtt", synset.images, synset.labels)
    whole = (folder / "images_best.pt").read_bytes()
    for part in (10, len(whole) // 2, len(whole) - 1):
        (folder / "images_best.pt").write_bytes(whole[:part])
        refused(folder, folder / "images_best.pt", "not a whole file")


def test_missing_files_and_unknown_layouts(synset, tmp_path):
    refused(tmp_path / "nowhere", "nowhere does not exist")
    refused(tmp_path / "nowhere.arrow", "nowhere.arrow does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty holds no synset.arrow", "images_best.pt", "--format")
    folder = mtt(tmp_path / "mtt", synset.images, synset.labels)
    (folder / "labels_best.pt").unlink()
    refused(folder, folder / "labels_best.pt", "does not exist")
    refused(folder, "unknown layout 'mt'", "did you mean mtt?", "ddranking", layout="mt")
    line_of(lambda: write_synset(synset, tmp_path / "out", "ddrank"), "'ddrank'", "did you mean ddranking?")
    refused(tmp_path / "empty", "images_best.pt does not exist", layout="mtt")
    assert not (tmp_path / "out").exists()


def test_no_data_set_named(synset, tmp_path):
    folder = mtt(tmp_path / "mtt", synset.images, synset.labels)
    refused(folder, folder, "(mtt)", "--dataset", data=None)
    refused(folder, folder, "--dataset", data=DataConfig(preprocessing="zca"))


def test_labels_that_do_not_fit(synset, images, tmp_path):
    def check(labels, *words):
        refused(mtt(tmp_path / "mtt", synset.images, labels), *words)

    check(synset.labels + 1, "labels 1 to 10", "digits has 10 classes, 0 to 9")
    check(synset.labels - 1, "labels -1 to 8")
    check(synset.labels[:-1], "labels of shape (19,) for 20 images")
    check(synset.labels + 0.5, "no whole numbers")
    check(torch.randn(20, 7), "soft labels (20, 7)", "digits has 10 classes")
    check(torch.full((20, 10), torch.nan), "soft labels that are not finite")
    check(torch.tensor(3), "labels of shape ()")
    check([1, 2, 3], "labels_best.pt holds a list of 3 where a tensor is expected")
    small = mtt(tmp_path / "small", torch.rand(20, 3, 8, 8), synset.labels)
    refused(small, "labels 0 to 9", "images has 2 classes", data=DataConfig(dataset=str(images)))


def test_images_that_do_not_fit(synset, images, tmp_path):
    def check(some, *words, **arguments):
        refused(mtt(tmp_path / "mtt", some, synset.labels), *words, **arguments)

    check(synset.images, "(20, 1, 8, 8)", "images has (3, 8, 8)", data=DataConfig(dataset=str(images)))
    check(synset.images[:, 0], "(20, 8, 8)", "digits has (1, 8, 8)")
    check(synset.images[:0], "(0, 1, 8, 8)")
    check((synset.images * 10).long(), "torch.int64")
    for value in (torch.nan, torch.inf):
        some = synset.images.clone()
        some[0, 0, 0, :2] = value
        check(some, "2 pixels that are not finite")


def test_images_in_another_space_than_said(synset, tmp_path):
    raw = DataConfig(dataset="digits", preprocessing="raw01")
    folder = mtt(tmp_path / "mtt", synset.images, synset.labels)
    refused(folder, "pixels outside [0, 1]", "of 1280", "--preprocessing", data=raw)
    torch.save([synset.images, synset.labels], tmp_path / "data_best.pt")
    refused(tmp_path / "data_best.pt", "pixels outside [0, 1]", "(tgdd)", "--format")
    folder = mtt(tmp_path / "mtt", synset.images.sigmoid(), synset.labels)
    notes = read_synset(folder, data=DIGITS).notes
    assert any("all pixels lie in [0, 1], taken as normalise" in note for note in notes)
    assert not any("all pixels" in note for note in read_synset(folder, data=raw).notes)


def test_probabilities_are_taken_as_logits_and_it_is_said(synset, tmp_path):
    folder = mtt(tmp_path / "mtt", synset.images, torch.softmax(torch.randn(20, 10), dim=1))
    assert any("sums to 1" in note for note in read_synset(folder, data=DIGITS).notes)


def test_files_that_hold_something_else(synset, tmp_path):
    def check(name, value, *words):
        torch.save(value, tmp_path / name)
        refused(tmp_path / name, name, *words)

    check("data_best.pt", synset.images, "a tensor (20, 1, 8, 8) where a pair")
    check("data_best.pt", [synset.images, [0, 1]], "a list of 2 where a tensor of labels")
    check("res_DM.pt", {"data": []}, "a dict of 1 where a dict with runs")
    check("res_DM.pt", [1], "a list of 1")
    check("images.pt", [synset.images], "a list of 1 where a tensor")


@pytest.mark.parametrize("kind", ["sparse", "complex", "meta"])
def test_tensors_that_are_not_dense_real_numbers(kind, synset, tmp_path):
    change, words = {
        "sparse": (torch.Tensor.to_sparse, ("torch.sparse_coo", "torch.float32")),
        "complex": (lambda tensor: tensor + 1j, ("torch.strided", "torch.complex64")),
        "meta": (lambda tensor: tensor.to("meta"), ("torch.float32", "device meta")),
    }[kind]
    value = change(synset.images)
    torch.save(value, tmp_path / "images.pt")
    refused(tmp_path / "images.pt", tmp_path / "images.pt", "where a tensor is expected", "dense", *words)
    torch.save([synset.images.sigmoid(), value], tmp_path / "data.pt")
    refused(tmp_path / "data.pt", tmp_path / "data.pt", "where a tensor of labels is expected", *words)
    torch.save(change(torch.ones(1)), tmp_path / "lr.pt")
    torch.save(synset.images, tmp_path / "images.pt")
    refused(tmp_path / "images.pt", tmp_path / "lr.pt", "where one number is expected", words[-1])


@pytest.mark.parametrize("protocol", [4, 5])
def test_files_of_another_pickle_protocol(protocol, synset, recwarn, tmp_path):
    """The reader without code knows few instructions of later protocols; torch also warns of them."""
    folder = mtt(tmp_path / "mtt", synset.images, synset.labels)
    torch.save(synset.labels, folder / "labels_best.pt", pickle_protocol=protocol)
    line = refused(folder, folder / "labels_best.pt", f"pickle_protocol={protocol}", "save it again", "2")
    assert "whole file" not in line
    assert len(recwarn) == 0
    torch.save(synset.labels, folder / "labels_best.pt", pickle_protocol=3)
    assert torch.equal(read_synset(folder, data=DIGITS).synset.labels, synset.labels)
    assert len(recwarn) == 0


def test_classes_by_position_need_equal_shares(synset, tmp_path):
    torch.save(synset.images[:-1], tmp_path / "images.pt")
    refused(tmp_path, "19 images", "10 classes", "labels.pt")


@pytest.mark.parametrize("value", [torch.nan, -0.5, 0.0, torch.inf])
def test_learning_rates_that_are_none(value, synset, soft, tmp_path):
    write_synset(soft, tmp_path / "datm", "datm")
    torch.save(torch.tensor(value), tmp_path / "datm" / "lr_best.pt")
    refused(tmp_path / "datm", "learning rate", "--lr")
    refused(mtt(tmp_path / "mtt", synset.images, synset.labels), "learning rate", lr=float(value))
    torch.save(torch.ones(2), tmp_path / "datm" / "lr_best.pt")
    refused(tmp_path / "datm", "lr_best.pt holds a tensor (2,) where one number")
    bad = replace(synset, lr=torch.tensor(value))
    line_of(lambda: write_synset(bad, tmp_path / "out", "mtt"), "learning rate")


def test_mosaics_where_a_layout_has_none(synset, tmp_path):
    folder = mtt(tmp_path / "mtt", synset.images, synset.labels)
    refused(folder, "not mosaics of 2 x 2", formation=Formation(2))
    assert read_synset(folder, data=DIGITS, formation=Formation(1)).synset.formation.plain


def test_several_sets_at_one_place(synset, tmp_path):
    for name in ("res_DC.pt", "res_DM.pt"):
        torch.save({"data": [[synset.images, synset.labels]]}, tmp_path / name)
    refused(tmp_path, "res_DC.pt and res_DM.pt", "name one")
    for ipc in ("IPC1", "IPC2"):
        (tmp_path / "bench" / "TM" / "CIFAR10" / ipc).mkdir(parents=True)
        mtt(tmp_path / "bench" / "TM" / "CIFAR10" / ipc, synset.images, synset.labels)
    refused(tmp_path / "bench", "IPC1", "IPC2", "name one folder")


def test_parts_of_different_shapes(synset, tmp_path):
    home = tmp_path / "TM" / "x" / "IPC1"
    home.mkdir(parents=True)
    for part, images in enumerate((synset.images, synset.images[..., :4])):
        torch.save(images, home / f"images_best_{part}.pt")
        torch.save(synset.labels, home / f"labels_best_{part}.pt")
    refused(tmp_path, "parts of different shapes")


def test_class_folders_that_are_not_the_data_sets(images, tmp_path):
    refused(images, "cat is a class that the data set does not have (it has 0, 1, 2", layout="png")
    folder = write_synset(read_synset(images, data=DataConfig(dataset=str(images))).synset, tmp_path / "out", "png")
    assert folder.images == 10
    (tmp_path / "out" / "001_dog").rename(tmp_path / "out" / "007_dog")
    refused(tmp_path / "out", "007_dog is a class", data=DataConfig(dataset=str(images)))


def test_parquet_that_does_not_fit(synset, images, tmp_path):
    (path, sidecar) = write_synset(synset, tmp_path / "hf", "hf").paths
    sidecar.unlink()
    refused(tmp_path / "hf", "the classes 0, 1, 2", "cat, dog", data=DataConfig(dataset=str(images)))
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["label"]), path)
    refused(tmp_path / "hf", "no column label", "image, pixels")
    path.write_bytes(b"PAR1 rubbish")
    refused(tmp_path / "hf", "not a readable Parquet")


def test_sidecars_that_do_not_fit(synset, images, tmp_path):
    folder = tmp_path / "mtt"
    (*_, sidecar) = write_synset(synset, folder, "mtt").paths
    hash_ = synset.transform.hash
    zca = fit_transform("zca", load_dataset("digits")).hash
    refused(folder, f"normalise {hash_}", f"zca {zca}", data=DataConfig(preprocessing="zca"))
    refused(folder, "is of the classes 0, 1, 2", "has cat, dog", data=DataConfig(dataset=str(images)))
    known = json.loads(sidecar.read_text())
    sidecar.write_bytes(dump_document(known | {"preprocessing": {"kind": "normalise", "hash": "0123456789abcdef"}}))
    refused(folder, "normalise 0123456789abcdef", hash_, data=None)
    sidecar.write_bytes(dump_document(known | {"format": 2}))
    refused(folder, sidecar, "format", data=None)
    sidecar.write_text("{")
    refused(folder, sidecar, "not a sidecar", data=None)
    for change, word in (
        ({"recipe": {"data": 5}}, "recipe = {'data': 5}: data"),
        ({"recipe": {"data": {"sise": 8}}}, "unknown setting 'sise'"),
        ({"recipe": [1]}, "recipe = [1]"),
        ({"preprocessing": {}}, "preprocessing.kind"),
        ({"preprocessing": {"kind": "whiten", "hash": hash_}}, "preprocessing = 'whiten'"),
        ({"formation": {"factor": "x"}}, "formation.factor = 'x'"),
        ({"digest": None}, "digest = None"),
    ):
        sidecar.write_bytes(dump_document(known | change))
        refused(folder, sidecar, "not a sidecar", word, data=None)
    sidecar.write_bytes(dump_document({key: value for key, value in known.items() if key != "digest"}))
    refused(folder, sidecar, "digest", data=None)


def test_arguments_win_over_the_sidecar(synset, tmp_path):
    write_synset(synset, tmp_path / "mtt", "mtt")
    read = read_synset(tmp_path / "mtt", lr=0.5, data=DataConfig(augment="none"))
    assert (float(read.synset.lr), read.synset.recipe["data"]["augment"]) == (0.5, "none")
    write_synset(synset.with_leaves({"images": synset.images.sigmoid()}), tmp_path / "png", "png")
    read = read_synset(tmp_path / "png", data=DataConfig(preprocessing="zca"))
    assert read.synset.transform.kind == "zca"  # pictures may be preprocessed anew
    np.testing.assert_array_equal(read.synset.labels, synset.labels)


def test_an_order_that_is_not_of_these_images_is_not_used(synset, tmp_path):
    mixed = replace(synset, labels=synset.labels.flip(0))
    write_synset(mixed, tmp_path, "png")
    sidecar = tmp_path / "raydd.json"
    sidecar.write_bytes(dump_document(json.loads(sidecar.read_text()) | {"order": list(range(1, 21))}))
    read = read_synset(tmp_path)
    assert read.synset.labels.tolist() == sorted(mixed.labels.tolist())
    assert any("of 20 images and there are 20" in note for note in read.notes)


def test_another_data_set_of_the_same_classes_is_said(synset, tmp_path):
    known = replace(synset, provenance={"fingerprint": "0123456789abcdef"})
    write_synset(known, tmp_path, "mtt")
    read = read_synset(tmp_path)
    assert any("0123456789abcdef" in note for note in read.notes)
    assert read.synset.provenance["fingerprint"] == "0123456789abcdef"
    read = read_synset(tmp_path, data=DIGITS)
    assert read.synset.provenance["fingerprint"] == load_dataset("digits").fingerprint


def test_exports_of_sets_that_a_layout_cannot_hold(synset, soft, tmp_path):
    out = tmp_path / "out"
    for layout in ("mtt", "tgdd", "dc", "dcbench", "png"):
        line_of(
            lambda name=layout: write_synset(soft, out, name), "soft labels", layout, "datm | ddranking | hf", "--hard"
        )
    line = line_of(lambda: write_synset(synset, out, "datm"), "has classes, datm holds soft labels", "mtt")
    assert "--hard" not in line
    bad = replace(synset, images=synset.images / 0)
    line_of(lambda: write_synset(bad, out, "mtt"), "not finite")
    odd = replace(synset, labels=synset.labels + 1)
    line_of(lambda: write_synset(odd, out, "png"), "labels 1 to 10 for 10 classes")
    wide = replace(synset, images=torch.rand(20, 4, 8, 8), transform=fit_transform("raw01", load_dataset("digits")))
    for layout in ("png", "hf"):
        line_of(lambda name=layout: write_synset(wide, out, name), "4 channels", "1 or 3")
    assert not out.exists()
    assert write_synset(wide, out, "mtt").images == 20


def test_exports_never_go_over_something(synset, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for layout in ("mtt", "hf", "png"):
        line_of(lambda name=layout: write_synset(synset, tmp_path, name), "not an empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    write_synset(synset, tmp_path, "dcbench")  # into its own folder below
    line_of(lambda: write_synset(synset, tmp_path, "dcbench"), "IPC2 is not an empty folder")


@pytest.mark.parametrize("called", ["..", ".", "", "/", "x" * 300])
@pytest.mark.parametrize("layout", ["dc", "dcbench"])
def test_data_sets_whose_names_make_no_file(called, layout, synset, tmp_path):
    odd = replace(synset, dataset=called)
    line_of(lambda: write_synset(odd, tmp_path / "out", layout), "use --format mtt")
    assert list(tmp_path.iterdir()) == []
    assert write_synset(odd, tmp_path / "out", "mtt").images == 20


def test_classes_of_longer_names_than_a_folder_may_have(synset, tmp_path):
    longest = "é" * 125 + "x"  # 251 bytes, and four of its number
    fits = replace(synset, classes=(*synset.classes[:-1], longest))
    assert write_synset(fits, tmp_path / "fits", "png").images == 20
    odd = replace(synset, classes=(*synset.classes[:-1], longest + "y"))
    line_of(lambda: write_synset(odd, tmp_path / "out", "png"), "009_é", "a name of 256 bytes", "255", "--format mtt")
    assert not (tmp_path / "out").exists()
