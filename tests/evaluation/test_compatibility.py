"""Sets that are not of the real images are refused, in one line that names both."""

from dataclasses import replace

import pytest
import torch

from raydd.config.schema import DataConfig
from raydd.data.datasets import CIFAR, IMAGENET, SVHN
from raydd.data.preprocessing import Transform, fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.compatibility import check_compatible
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real

CIFAR_TRUE = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
DIGITS = ((0.3053,) * 3, (0.3760,) * 3)


@pytest.fixture(scope="module")
def work():
    return open_workspace(DataConfig(), None, torch.device("cpu"))


@pytest.fixture(scope="module")
def whitened(work):
    return fit_transform("zca", work.dataset)


@pytest.fixture
def synset(work):
    images, labels = real(Request(work.dataset, work.transform, 1, generator(0)))
    lr = torch.tensor(0.05)
    return SyntheticSet(images, labels, lr, work.transform, "digits", work.dataset.classes)


def refusal(synset, work, named=True):
    with pytest.raises(ValueError, match=r".") as caught:
        check_compatible([("mine.arrow", synset)], work, named=named)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("mine.arrow ")
    assert work.dataset.name in line
    return line


def accepted(synset, work, named=True):
    check_compatible([("mine.arrow", synset)], work, named=named)
    return True


def normalised(mean, std):
    arrays = {"mean": torch.tensor(mean, dtype=torch.float64), "std": torch.tensor(std, dtype=torch.float64)}
    return Transform("normalise", arrays)


def coloured(work, statistics):
    """The digits as if they were images of three channels with these statistics."""
    split = work.dataset.train
    tripled = replace(split, images=split.images.repeat(3, axis=1))
    mean, std = statistics
    return replace(work, dataset=replace(work.dataset, name="colours", train=tripled, mean=mean, std=std))


def test_a_set_of_the_images_is_accepted(work, synset):
    assert accepted(synset, work, named=False)
    assert accepted(replace(synset, labels=torch.randn(10, 10)), work, named=False)


def test_shape_and_number_of_classes(work, synset):
    line = refusal(replace(synset, images=torch.zeros(10, 3, 8, 8)), work)
    assert "(3, 8, 8) of 10 classes" in line
    assert "(1, 8, 8) of 10;" in line
    line = refusal(replace(synset, images=torch.zeros(10, 1, 9, 9)), work)
    assert "(1, 9, 9)" in line
    line = refusal(replace(synset, classes=(*"abc",)), work)
    assert "of 3 classes" in line


@pytest.mark.parametrize("place", [-1, 10, 99])
def test_hard_labels_out_of_range(place, work, synset):
    labels = synset.labels.clone()
    labels[3] = place
    line = refusal(replace(synset, labels=labels), work)
    assert f"labels {min(0, place)} to {max(9, place)}," in line
    assert "classes 0 to 9" in line


def test_hard_labels_that_are_no_whole_numbers(work, synset):
    assert "torch.float32" in refusal(replace(synset, labels=synset.labels.float()), work)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite(value, work, synset):
    logits = torch.zeros(10, 10)
    logits[2, 3:5] = value
    assert "2 soft labels that are not finite" in refusal(replace(synset, labels=logits), work)
    images = synset.images.clone()
    images[0, 0, 0, 0] = value
    assert "1 pixels that are not finite" in refusal(replace(synset, images=images), work)


def test_another_source_is_accepted_where_the_data_set_was_named(work, synset):
    other = replace(synset, provenance={"fingerprint": "0123"})
    line = refusal(other, work, named=False)
    assert "'0123'" in line
    assert repr(work.dataset.fingerprint) in line
    assert accepted(other, work)


@pytest.mark.parametrize("statistics", [CIFAR, CIFAR_TRUE])
def test_cifar_and_its_copies_pass_for_each_other(statistics, work, synset):
    colours = coloured(work, CIFAR_TRUE)
    images = synset.images.repeat(1, 3, 1, 1)
    assert accepted(replace(synset, images=images, transform=normalised(*statistics)), colours)


@pytest.mark.parametrize("statistics", [DIGITS, SVHN, ((0.5,) * 3, (0.5,) * 3)])
def test_other_statistics_are_refused_with_both_values(statistics, work, synset):
    colours = coloured(work, CIFAR)
    given = replace(synset, images=synset.images.repeat(1, 3, 1, 1), transform=normalised(*statistics))
    line = refusal(given, colours)
    assert f"mean ({statistics[0][0]:.3f}, " in line
    assert "mean (0.491, 0.482, 0.447) and std (0.202, 0.199, 0.201)" in line


def test_statistics_of_another_number_of_channels(work, synset):
    line = refusal(replace(synset, transform=normalised((0.3053,) * 3, (0.376,) * 3)), work)
    assert "(0.305, 0.305, 0.305)" in line
    assert accepted(replace(synset, transform=normalised((0.3053,), (0.376,))), work)
    colours = coloured(work, ((0.3053,) * 3, (0.376,) * 3))
    one = replace(synset, images=synset.images.repeat(1, 3, 1, 1))
    assert "mean (0.305) and" in refusal(one, colours)
    assert "nan" in refusal(replace(synset, transform=normalised((float("nan"),), (0.376,))), work)
    assert IMAGENET != CIFAR


def test_whitening_of_the_same_images_and_of_others(work, synset, whitened):
    mine = replace(synset, transform=whitened)
    assert accepted(mine, work)
    arrays = dict(whitened.tensors)
    near = Transform("zca", arrays | {"mean": arrays["mean"] + 0.02})
    assert accepted(replace(mine, transform=near), work)
    far = Transform("zca", arrays | {"mean": arrays["mean"] + 0.2})
    line = refusal(replace(mine, transform=far), work)
    mean = float(arrays["mean"].mean())
    assert f"mean {mean + 0.2:.3f}" in line
    assert f"mean {mean:.3f}, 0.200 apart" in line
    small = Transform("zca", {"mean": torch.zeros(16), "matrix": torch.eye(16), "inverse": torch.eye(16)})
    line = refusal(replace(mine, transform=small), work)
    assert "16 pixels with a matrix (16, 16)" in line
    assert "64 pixels" in line


def test_the_mean_image_is_that_of_the_training_images(work, whitened):
    from raydd.evaluation.compatibility import _mean_image

    assert torch.allclose(_mean_image(work.dataset), whitened.tensors["mean"].double(), atol=1e-6)


def test_normalised_images_are_not_raw(work, synset):
    raw = Transform("raw01")
    line = refusal(replace(synset, transform=raw), work)
    assert "pixels -0.812 to" in line
    assert "0 to 1; give its preprocessing" in line
    pixels = work.transform.inverse(synset.images)
    assert accepted(replace(synset, images=pixels, transform=raw), work)
    pixels[0, 0, 0, 0] = 3  # one of 640, as a learned pixel may be
    assert accepted(replace(synset, images=pixels, transform=raw), work)


@pytest.mark.parametrize("named", [True, False])
def test_classes_in_another_order_or_of_other_names_are_refused(named):
    work = open_workspace(DataConfig(), None, torch.device("cpu"))
    images, labels = torch.zeros(10, 1, 8, 8), torch.arange(10)
    words = tuple(f"x{label}" for label in range(10))
    other = replace(work, dataset=replace(work.dataset, classes=words))
    given = SyntheticSet(images, labels, torch.tensor(0.1), work.transform, "digits", words[::-1])
    with pytest.raises(ValueError, match=r"^mine has 'x9' as class 0, digits has 'x0'; name its own --dataset$"):
        check_compatible([("mine", given)], other, named=named)
    check_compatible([("mine", replace(given, classes=words))], other, named=named)
    numbers = replace(given, classes=tuple(map(str, range(10))))
    assert check_compatible([("mine", numbers)], other, named=named) is None
