"""Crops that an expert classifies well, and mosaics of them."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import interpolate

from raydd.buffer.segments import InMemory
from raydd.data.datasets import load_dataset
from raydd.data.preprocessing import fit_transform
from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.selection import crops as module
from raydd.selection.class_sampler import Experts, Request
from raydd.selection.crops import losses_of, mosaic, random_crops, rded

MLP = FlatModel(lambda: build("MLP", channels=1, size=8, classes=10))


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def experts():
    theta = MLP.init(generator(0))
    return Experts(MLP, InMemory([torch.stack([theta, theta])], MLP.layout), torch.device("cpu"))


def test_a_crop_is_a_part_of_its_image():
    """Of images whose pixels count up from left to right and from top to bottom, every crop does too, within them."""
    ramp = torch.stack([torch.arange(16.0).repeat(16, 1), torch.arange(16.0).repeat(16, 1).T])[None]
    made = random_crops(ramp, 50, generator(0))
    assert made.shape == (50, 1, 2, 16, 16)
    for across, down in made[:, 0]:
        assert (across.diff(dim=1) >= -1e-5).all()
        assert (down.diff(dim=0) >= -1e-5).all()
        assert across.min() >= 0
        assert across.max() <= 15
    widths = (made[:, 0, 0, 0].max(1).values - made[:, 0, 0, 0].min(1).values + 1) / 16
    heights = (made[:, 0, 1, :, 0].max(1).values - made[:, 0, 1, :, 0].min(1).values + 1) / 16
    areas = widths * heights
    assert areas.min() > 0.15
    assert areas.max() > 0.85
    assert (made[0] != made[1]).any()


def test_a_mosaic_has_every_image_once_made_small():
    images = torch.randn(8, 1, 8, 8, generator=generator(0))
    made = mosaic(images, 2)
    assert made.shape == (2, 1, 8, 8)
    small = interpolate(images, (4, 4), mode="bilinear", antialias=True)
    for place in range(2):
        tiles = [
            made[place, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] for row in (0, 1) for column in (0, 1)
        ]
        for tile, image in zip(tiles, small[4 * place : 4 * place + 4], strict=True):
            torch.testing.assert_close(tile, image)
    assert torch.equal(mosaic(images, 1), images)


@pytest.mark.parametrize("side", [1, 2])
def test_the_best_crops_of_a_class_are_taken_with_the_experts_logits(digits, experts, side, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 8 if side == 2 else 64)
    monkeypatch.setattr(module, "MOST_IMAGES", 20)
    request = Request(digits, fit_transform("normalise", digits), 2, generator(3), experts)
    images, labels = rded(request)
    assert images.shape == (20, 1, 8, 8)
    torch.testing.assert_close(labels, experts.logits(0, images))
    again = Request(digits, fit_transform("normalise", digits), 2, generator(3), experts)
    experts.pick(again.rng)
    rows = again.classes()[0][:20]
    made = random_crops(again.images(rows), module.CROPS, again.rng)
    losses = torch.stack([losses_of(experts.logits(0, each), 0) for each in made])
    best = sorted((float(losses[:, i].min()), i, int(losses[:, i].argmin())) for i in range(20))[: 2 * side**2]
    expected = mosaic(torch.stack([made[crop, i] for _, i, crop in best]), side)
    torch.testing.assert_close(images[:2], expected)


def test_a_class_with_too_few_images_is_refused(digits, experts, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 8)
    rows = torch.cat([torch.nonzero(digits.train.targets == label).flatten()[:7] for label in range(10)])
    few = replace(digits, train=replace(digits.train, index=digits.train.index[rows.numpy()]))
    for ipc, remedy in ((2, "use --ipc 1 or less"), (7, "use --ipc 1 or less")):
        request = Request(few, fit_transform("normalise", digits), ipc, generator(0), experts)
        with pytest.raises(ValueError, match=rf"rded puts 4 images of class '0' into one, and it has 7 .*; {remedy}"):
            rded(request)
