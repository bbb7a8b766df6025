import pytest
import torch

from raydd.data.datasets import load_dataset
from raydd.data.synset import SyntheticSet
from raydd.data.tensors import save_tensors
from raydd.data.transform import Transform, fit_transform

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


@pytest.mark.parametrize("kind", ["hard", "logits"])
@pytest.mark.parametrize("preprocessing", ["raw01", "normalise", "zca"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_comes_back_bitwise(kind, preprocessing, dtype, digits, tmp_path):
    synset = make(kind, fit_transform(preprocessing, digits), dtype)
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


@pytest.mark.parametrize("metadata", [{}, {"kind": "checkpoint", "format": 1}, {"kind": "synset", "format": 2}])
def test_other_files_of_ours_and_other_formats_are_refused(metadata, tmp_path):
    save_tensors(tmp_path / "a", {"images": torch.zeros(1)}, metadata)
    with pytest.raises(ValueError, match=r"is no synthetic set of format 1; name a synset.arrow"):
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
