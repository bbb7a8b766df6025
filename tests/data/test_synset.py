from dataclasses import replace

import pytest
import torch

from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import Transform, fit_transform
from raydd.data.synset import SyntheticSet
from raydd.io.tensor_file import load_tensors, save_tensors
from raydd.numerics.formation import PLAIN, Formation, decode

CLASSES = ("zero", "eins / one", "två")
PARTS = ("images", "labels", "lr")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def make(kind="hard", transform=None, dtype=torch.float32, **changes):
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2]) if kind == "hard" else torch.randn(6, 3, generator=rng).to(dtype)
    values = {
        "images": torch.randn(6, 1, 8, 8, generator=rng, dtype=torch.float64).to(dtype),
        "labels": labels,
        "lr": torch.tensor(0.0123456789, dtype=dtype),
        "transform": transform or Transform("raw01"),
        "dataset": "toy",
        "classes": CLASSES,
        "recipe": {"method": "mtt", "lr": {"lr": 1e-7}},
        "provenance": {"commit": None},
        "history": ({"step": 1, "mean": 0.5},),
    }
    return SyntheticSet(**{**values, **changes})


@pytest.mark.parametrize("kind", ["hard", "logits", "targets"])
@pytest.mark.parametrize("preprocessing", ["raw01", "normalise", "zca"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_comes_back_bitwise(kind, preprocessing, dtype, digits, tmp_path):
    synset = make(kind, fit_transform(preprocessing, digits), dtype, regression=kind == "targets")
    assert synset.label_kind == kind
    synset.save(tmp_path / "a.arrow")
    found = SyntheticSet.load(str(tmp_path / "a.arrow"))
    for name in PARTS:
        assert getattr(found, name).dtype == getattr(synset, name).dtype
        assert torch.equal(getattr(found, name), getattr(synset, name))
    for name in ("dataset", "classes", "recipe", "provenance", "history", "label_kind", "ipc"):
        assert getattr(found, name) == getattr(synset, name)
    assert found.transform.hash == synset.transform.hash
    assert torch.equal(found.pixels(), synset.pixels())
    x = digits.train.take(torch.arange(3))
    assert torch.equal(found.transform(x), synset.transform(x))


def test_equal_sets_give_equal_bytes(digits, tmp_path):
    for name in ("a", "b"):
        make("logits", fit_transform("zca", digits)).save(tmp_path / name)
    SyntheticSet.load(tmp_path / "a").save(tmp_path / "c")
    first, *others = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert len(others) == 2
    assert all(other == first for other in others)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a.arrow"
    make().save(path)
    content = path.read_bytes()
    place = content.index(make().images.numpy().tobytes()) + 5
    flipped = bytearray(content)
    flipped[place] ^= 16
    for wrong in (content[:-1], content[: len(content) // 2], bytes(flipped), b"no set", b""):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"a\.arrow is (corrupted|not a complete raydd file)"):
            SyntheticSet.load(path)
    with pytest.raises(ValueError, match="does not exist"):
        SyntheticSet.load(tmp_path / "b.arrow")


@pytest.mark.parametrize("metadata", [{}, {"kind": "checkpoint", "format": 1}, {"kind": "synset", "format": 3}])
def test_other_files_of_ours_and_other_formats_are_refused(metadata, tmp_path):
    save_tensors(tmp_path / "a", {"images": torch.zeros(1)}, metadata)
    with pytest.raises(ValueError, match=r"is no synthetic set of format 2 or before; name a synset.arrow"):
        SyntheticSet.load(tmp_path / "a")


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": torch.zeros(5, dtype=torch.int64)},
        {"labels": torch.zeros(5, 3)},
        {"labels": torch.zeros(6, 4)},  # logits of 4 classes where there are 3
        {"labels": torch.zeros(6, 3, 1)},
        {"labels": torch.tensor(0)},
        {"images": torch.zeros(6, 64)},
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(changes):
    with pytest.raises(ValueError, match=r"do not belong together") as caught:
        make(**changes)
    assert all(str(tuple(value.shape)) in str(caught.value) for value in changes.values())


@pytest.mark.parametrize("kind", ["raw01", "normalise", "zca"])
def test_pixels_undo_the_preprocessing_and_stay_in_range(kind, digits):
    stored = digits.train.take(torch.arange(6))
    transform = fit_transform(kind, digits)
    synset = make(transform=transform, images=transform(stored))
    torch.testing.assert_close(synset.pixels(), stored / 255, rtol=0, atol=1e-5)
    wild = make(transform=transform).with_leaves({"images": 100 * make().images}).pixels()
    assert (wild.min(), wild.max()) == (0, 1)


def test_targets_are_classes_or_probabilities():
    hard, soft = make("hard"), make("logits", dtype=torch.float64)
    assert (hard.label_kind, soft.label_kind) == ("hard", "logits")
    assert torch.equal(hard.targets, hard.labels)
    exponentials = soft.labels.exp()
    expected = exponentials / exponentials.sum(1)[:, None]
    torch.testing.assert_close(soft.targets, expected, rtol=1e-12, atol=0)


def test_targets_of_a_regression_are_the_labels_themselves(tmp_path):
    targets = make("targets", regression=True)
    assert torch.equal(targets.targets, targets.labels)
    assert torch.equal(targets.hard_labels, targets.labels.argmax(1))
    assert targets.with_leaves({"labels": targets.labels + 1}).label_kind == "targets"
    with pytest.raises(ValueError, match="no targets of a regression"):
        make("hard", regression=True)
    plain = replace(targets, regression=False)
    for name, synset in (("targets", targets), ("plain", plain)):
        synset.save(tmp_path / name)
    found, other = (load_tensors(tmp_path / name)[1] for name in ("targets", "plain"))
    assert (found["labels"], found["format"]) == ("targets", 2)  # so that older versions refuse it
    assert ("labels" in other, other["format"]) == (False, 1)


def test_ipc_counts_images_a_class():
    assert make().ipc == 2
    assert make(images=torch.zeros(9, 1, 8, 8), labels=torch.zeros(9, 3)).ipc == 3
    assert make(images=torch.zeros(4, 1, 8, 8), labels=torch.zeros(4, 3)).ipc == pytest.approx(4 / 3)


def test_leaves_are_replaced_by_name_and_the_set_itself_is_frozen():
    synset, images = make(), torch.ones(6, 1, 8, 8, requires_grad=True)
    changed = synset.with_leaves({"images": images})
    assert changed.images is images
    assert changed.labels is synset.labels
    assert not torch.equal(synset.images, images)
    with pytest.raises(AttributeError):
        synset.images = images


def test_to_moves_all_tensors(device, digits):
    synset = make(transform=fit_transform("normalise", digits)).to(device)
    assert {getattr(synset, name).device.type for name in PARTS} == {device.type}
    assert {array.device.type for array in synset.transform.tensors.values()} == {device.type}
    assert torch.equal(synset.to("cpu").images, make().images)


@pytest.mark.parametrize("kind", ["hard", "logits"])
@pytest.mark.parametrize("decoding", ["uniform", "multi"])
def test_a_decoded_set_has_the_parts_of_its_mosaics_with_their_labels(kind, decoding):
    synset = make(kind, formation=Formation(2, decoding))
    found = synset.decoded()
    images, rows = decode(synset.images, synset.formation)
    assert torch.equal(found.images, images)
    assert torch.equal(found.labels, synset.labels[rows])
    assert len(found.images) == (24 if decoding == "uniform" else 30)
    assert found.formation == PLAIN
    assert found.decoded() is found
    for name in ("lr", "transform", "dataset", "classes", "recipe", "provenance", "history"):
        assert getattr(found, name) is getattr(synset, name)


@pytest.mark.parametrize("formation", [PLAIN, Formation(1, "multi"), Formation(1, "bounded", 1)])
def test_a_set_without_mosaics_is_its_own_decoding(formation):
    synset = make(formation=formation)
    assert synset.decoded() is synset


@pytest.mark.parametrize("kind", ["hard", "logits"])
def test_a_bound_holds_for_every_class(kind):
    """Labels 0 1 2 0 1 2, two mosaics a class: room for the four parts of one, and the other whole."""
    logits = torch.tensor([[9.0, 0, 1], [0, 9, 1], [0, 1, 9], [8, 1, 0], [1, 8, 0], [1, 0, 8]])
    labels = logits if kind == "logits" else torch.tensor([0, 1, 2, 0, 1, 2])
    synset = make(labels=labels, formation=Formation(2, "bounded", 6))
    found = synset.decoded()
    origins = [0, 0, 0, 0, 3, 1, 1, 1, 1, 4, 2, 2, 2, 2, 5]
    assert torch.equal(found.labels, labels[origins])
    assert torch.equal(found.images[4::5], synset.images[3:])
    parts = decode(synset.images[:3], Formation(2))[0].unflatten(0, (3, 4))
    torch.testing.assert_close(found.images.unflatten(0, (3, 5))[:, :4], parts)
    assert torch.equal(synset.decoded().images, found.images)


def test_a_bounded_class_with_no_image_has_no_part():
    found = make(labels=torch.tensor([2, 0, 2, 2, 0, 2]), formation=Formation(2, "bounded", 8)).decoded()
    assert found.labels.tolist() == [0] * 5 + [2] * 7  # one mosaic of each in parts, and what is left whole
    assert torch.isfinite(found.images).all()


def test_a_class_with_more_images_than_the_bound_is_refused():
    synset = make(labels=torch.tensor([2, 0, 2, 2, 0, 2]), formation=Formation(2, "bounded", 3))
    with pytest.raises(ValueError, match=r"formation\.bound 3 is less than the 4 images stored of a class"):
        synset.decoded()


@pytest.mark.parametrize("decoding", ["uniform", "multi", "bounded"])
def test_gradients_pass_a_decoding_to_images_and_labels(decoding):
    synset = make("logits", dtype=torch.float64, formation=Formation(2, decoding, 6))
    leaves = {name: getattr(synset, name).clone().requires_grad_() for name in ("images", "labels")}
    found = synset.with_leaves(leaves).decoded()
    images, labels = torch.autograd.grad(found.images.sum() + found.labels.sum(), list(leaves.values()))
    assert float(images.sum()) == pytest.approx(found.images.numel())  # a decoded pixel is a mean of stored ones
    assert float(labels.sum()) == pytest.approx(found.labels.numel())
    parts = {"uniform": [4] * 6, "multi": [5] * 6, "bounded": [1, 4, 4, 1, 1, 1]}[decoding]  # 3, 1, 2 a class
    assert labels.tolist() == [[count] * 3 for count in parts]


def test_stored_images_count_whatever_they_decode_to():
    synset = make(formation=Formation(2))
    assert (synset.ipc, synset.decoded().ipc) == (2, 8)


def test_the_class_of_an_image_is_its_label_or_its_largest_logit():
    hard = make()
    soft = hard.with_leaves({"labels": torch.nn.functional.one_hot(hard.labels, 3) * 2.0 - 5})
    assert hard.hard_labels is hard.labels
    assert torch.equal(soft.hard_labels, hard.labels)


@pytest.mark.parametrize("formation", [PLAIN, Formation(3), Formation(2, "multi"), Formation(2, "bounded", 40)])
def test_a_formation_is_kept(formation, tmp_path):
    synset = make(formation=formation)
    synset.save(tmp_path / "a")
    found = SyntheticSet.load(tmp_path / "a")
    assert found.formation == formation
    assert isinstance(found.formation, Formation)
    assert found.to("cpu").formation == formation
    assert found.with_leaves({"lr": torch.tensor(1.0)}).formation == formation
    assert torch.equal(found.decoded().images, synset.decoded().images)
    found.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_sets_without_mosaics_are_written_as_before_there_were_any(tmp_path):
    synset = make()
    synset.save(tmp_path / "new")
    assert "formation" not in load_tensors(tmp_path / "new")[1]
    metadata = {"format": 1, "kind": "synset", "transform": synset.transform.metadata()}
    names = ("dataset", "classes", "recipe", "provenance", "history")
    metadata |= {name: getattr(synset, name) for name in names}
    save_tensors(tmp_path / "old", {name: getattr(synset, name) for name in PARTS}, metadata)
    assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()
    assert SyntheticSet.load(tmp_path / "old").formation == PLAIN


def test_a_device_decodes_the_same_set(device):
    synset = make("logits", formation=Formation(2, "bounded", 9))
    found, expected = synset.to(device).decoded(), synset.decoded()
    assert {found.images.device.type, found.labels.device.type} == {device.type}
    torch.testing.assert_close(found.images.cpu(), expected.images, rtol=0, atol=1e-6)
    assert torch.equal(found.labels.cpu(), expected.labels)
