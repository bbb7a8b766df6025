"""`raydd analyse similarity | separability | activation | embedding` on a small buffer and small sets."""

import shutil
from dataclasses import replace

import analyses
import numpy as np
import pytest
import torch
from analyses import refusal

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.convexified import convexify
from raydd.cli import run
from raydd.config.schema import DataConfig
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.numerics.flat import FlatModel
from raydd.numerics.formation import Formation


@pytest.fixture(scope="module")
def work(cache):
    return open_workspace(DataConfig(), "MLP", torch.device("cpu"))


@pytest.fixture(scope="module")
def mosaics(small_synset, tmp_path_factory):
    """Nine mosaics of four with soft labels; the largest logit of image i is class i, and no image is of class 9."""
    plain = SyntheticSet.load(small_synset)
    logits = 3 * torch.eye(10)[:9] + 0.1 * torch.arange(10)
    path = tmp_path_factory.mktemp("sets") / "mosaics" / "synset.arrow"
    replace(plain, images=plain.images[:9], labels=logits, formation=Formation(factor=2)).save(path)
    return path


def document(capfd, *arguments):
    """The document a command prints, which runs networks."""
    return analyses.document(capfd, *arguments, "--device", "cpu")


def test_similarity_against_means_taken_image_by_image(capfd, small_buffer, small_synset, mosaics, work, tmp_path):
    flags = ("--buffer", small_buffer, "--images", 999, "--epochs", "3,1", "--out", tmp_path / "a.png")
    found = document(capfd, "analyse", "similarity", small_synset, mosaics, *flags)
    train = work.dataset.train
    assert (found["epochs"], found["experts"], found["real_images"]) == ([1, 3], 2, len(train))
    assert [entry["images"] for entry in found["sets"]] == [10, 36]
    assert [entry["name"] for entry in found["sets"]] == ["digits", "mosaics"]
    source, model = ArrowBuffer(small_buffer), FlatModel(work.build)
    real = work.transform(train.take(torch.arange(len(train))))
    for entry, path, factor in zip(found["sets"], (small_synset, mosaics), (1, 4), strict=True):
        synset = SyntheticSet.load(path).decoded()
        labels = [row // factor for row in range(len(synset.images))]
        values = []
        for expert in (0, 1):
            per_stage = []
            for epoch in (1, 3):
                theta = source.snapshot(expert, epoch)
                a, b = (model.features(theta, x).double().numpy() for x in (real, synset.images))
                classes = []
                for label in sorted(set(labels)):
                    mine = a[train.targets.numpy() == label].mean(axis=0)
                    theirs = b[np.array(labels) == label].mean(axis=0)
                    classes.append(np.corrcoef(mine, theirs)[0, 1])
                per_stage.append(sum(classes) / len(classes))
            values.append(per_stage)
        np.testing.assert_allclose(entry["mean"], np.mean(values, axis=0), atol=1e-6)
        np.testing.assert_allclose(entry["std"], np.std(values, axis=0), atol=1e-6)


def test_real_images_are_like_themselves_at_every_stage(capfd, small_buffer, small_synset, work, tmp_path):
    train, plain = work.dataset.train, SyntheticSet.load(small_synset)
    path = tmp_path / "all" / "synset.arrow"
    replace(plain, images=work.transform(train.take(torch.arange(len(train)))), labels=train.targets).save(path)
    flags = ("--buffer", small_buffer, "--images", 10**6)
    (whole,) = document(capfd, "analyse", "similarity", path, *flags)["sets"]
    assert whole["mean"] == pytest.approx([1] * 4)
    assert (tmp_path / "all" / "synset-similarity.png").is_file()
    few = document(capfd, "analyse", "similarity", path, "--buffer", small_buffer, "--images", 3)
    assert few["real_images"] == 30
    assert max(few["sets"][0]["mean"]) < 0.9999


def test_separability_is_the_experts_accuracy(capfd, small_buffer, small_synset, mosaics, work, tmp_path):
    flags = ("--buffer", small_buffer, "--out", tmp_path / "a.png")
    found = document(capfd, "analyse", "separability", small_synset, mosaics, *flags)
    source, model = ArrowBuffer(small_buffer), FlatModel(work.build)
    assert found["epochs"] == [0, 1, 2, 3]
    for entry, path, factor in zip(found["sets"], (small_synset, mosaics), (1, 4), strict=True):
        images = SyntheticSet.load(path).decoded().images
        values = []
        for expert in (0, 1):
            said = [model(source.snapshot(expert, t), images).argmax(dim=1).tolist() for t in range(4)]
            values.append([sum(c == row // factor for row, c in enumerate(s)) / len(images) for s in said])
        assert entry["mean"] == pytest.approx(np.mean(values, axis=0))
        assert entry["std"] == pytest.approx(np.std(values, axis=0))
    assert found["reference"]["split"] == "validation"
    assert found["reference"]["mean"] == source.accuracy.mean(dim=0).tolist()


def test_activation_of_sets_on_a_network_of_one_kind_of_layer(capfd, small_buffer, small_synset, mosaics, tmp_path):
    flags = ("--buffer", small_buffer, "--out", tmp_path / "a.png")
    found = document(capfd, "analyse", "activation", small_synset, mosaics, *flags)
    assert (found["epoch"], found["neurons"], found["experts"]) == (3, 256, 2)
    for entry in found["sets"]:
        assert 0 < entry["image"]["mean"] < entry["whole"]["mean"] <= 1
    # The MLP's own backward pass, written out: delta2 = W3' (p - y), delta1 = W2' delta2, both where z > 0.
    source, synset, each = ArrowBuffer(small_buffer), SyntheticSet.load(small_synset), []
    for expert in (0, 1):
        parts, offset = [], 0
        for shape in ((128, 64), (128,), (128, 128), (128,), (10, 128), (10,)):
            size = int(np.prod(shape))
            parts.append(source.snapshot(expert, 3)[offset : offset + size].view(shape).double())
            offset += size
        w1, b1, w2, b2, w3, b3 = parts
        shares = []
        for image, label in zip(synset.images.double(), range(10), strict=True):
            z1 = w1 @ image.flatten() + b1
            z2 = w2 @ z1.relu() + b2
            error = torch.softmax(w3 @ z2.relu() + b3, dim=0)
            error[label] -= 1
            delta2 = (w3.T @ error) * (z2 > 0)
            delta1 = (w2.T @ delta2) * (z1 > 0)
            shares.append(sum(int((d.abs() > d.abs().mean()).sum()) for d in (delta1, delta2)) / 256)
        each.append(sum(shares) / 10)
    assert found["sets"][0]["image"]["mean"] == pytest.approx(np.mean(each), abs=1 / 256 / 20)


def test_embedding_of_stages(capfd, small_buffer, mosaics, work, tmp_path):
    flags = ("--buffer", small_buffer, "--images", 4, "--expert", 1, "--out", tmp_path / "a.png")
    found = document(capfd, "analyse", "embedding", mosaics, *flags)
    assert [stage["epoch"] for stage in found["stages"]] == [0, 1, 3]  # the first, the middle and the last
    assert found["classes"]["real"] == [label for label in range(10) for _ in range(4)]
    assert found["classes"]["synthetic"] == [row // 4 for row in range(36)]
    assert found["class_names"] == list(work.dataset.classes)
    for stage in found["stages"]:
        assert [len(stage[kind][axis]) for kind in ("real", "synthetic") for axis in "xy"] == [40, 40, 36, 36]
        assert 0 < stage["divergence"] < 3
    assert found["stages"][0]["real"] != found["stages"][2]["real"]
    assert document(capfd, "analyse", "embedding", mosaics, *flags) == found
    # Another seed draws other images; a stage alone is asked for by its number.
    other = document(capfd, "analyse", "embedding", mosaics, *flags, "--seed", 1, "--epochs", "3")
    assert [stage["epoch"] for stage in other["stages"]] == [3]
    assert other["stages"][0]["real"] != found["stages"][2]["real"]


def test_tables_are_printed(capfd, small_buffer, small_synset, tmp_path):
    words = {"similarity": "correlation", "separability": "validation", "activation": "256", "embedding": "KL"}
    for name, word in words.items():
        extra = ("--images", "4", "--epochs", "3") if name == "embedding" else ()
        arguments = ["analyse", name, str(small_synset), "--buffer", str(small_buffer), *extra]
        assert run([*arguments, "--out", str(tmp_path / f"{name}.png"), "--device", "cpu"]) == 0
        assert word in capfd.readouterr().out


@pytest.mark.parametrize("name", ["similarity", "separability", "activation", "embedding"])
def test_sets_and_buffers_that_do_not_fit_are_refused(capfd, name, small_buffer, small_synset, work, tmp_path):
    plain = SyntheticSet.load(small_synset)

    def refused(synset, *flags, folder=small_buffer):
        path = tmp_path / "synset.arrow"
        synset.save(path)
        words = ("analyse", name, path, "--buffer", folder, "--device", "cpu", *flags)
        return refusal(capfd, tmp_path, *words)

    convexify(shutil.copytree(small_buffer, tmp_path / "full"), tmp_path / "small")
    plain.save(tmp_path / "synset.arrow")
    assert "0, 3" in refused(plain, folder=tmp_path / "small")
    assert "manifest" in refused(plain, folder=tmp_path)
    assert "fingerprint 'other'" in refused(replace(plain, provenance={"fingerprint": "other"}))
    assert "preprocessing 'raw01" in refused(replace(plain, transform=fit_transform("raw01", work.dataset)))
    assert "(1, 4, 4)" in refused(replace(plain, images=plain.images[:, :, :4, :4]))
    assert "classes 11" in refused(replace(plain, classes=(*plain.classes, "ten")))
    assert "a.png" in refused(plain, "--out", tmp_path / "a.pdf")


def test_what_is_not_there_is_refused(capfd, small_buffer, small_synset, images, tmp_path):
    def refused(name, *flags, synset=small_synset):
        out = ("--out", tmp_path / "a.png", "--device", "cpu")
        return refusal(capfd, tmp_path, "analyse", name, synset, "--buffer", small_buffer, *out, *flags)

    for name in ("similarity", "separability", "embedding"):
        assert "--epochs 4" in refused(name, "--epochs", "0,4")
        assert "--epochs 'x'" in refused(name, "--epochs", "x")
    for name in ("similarity", "embedding"):
        assert "--images 0" in refused(name, "--images", "0")
        assert "fingerprint" in refused(name, "--dataset", images)
    assert "0, 1" in refused("embedding", "--expert", "7")
    assert "none.arrow does not exist" in refused("activation", synset=tmp_path / "none.arrow")
