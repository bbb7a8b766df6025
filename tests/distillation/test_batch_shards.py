"""Pieces of a batch as parts of a student step; tests/methods compares their sums for every method."""

import pytest
import torch

from raydd.buffer.segments import InMemory
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.batch_shards import BatchShard, batch_division
from raydd.distillation.parts import Sequential
from raydd.distillation.trajectory_matching import TrajectoryMatching
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.windows import fixed

SIZE, CLASSES = 8, 3
MODEL = FlatModel(lambda: build("MLP", channels=1, size=SIZE, classes=CLASSES))
SOURCE = InMemory([torch.stack([MODEL.init(generator(expert, epoch)) for epoch in range(4)]) for expert in range(2)])


def matching(**changes):
    def inner(theta, x, y):
        return cross_entropy(MODEL(theta, x), y)

    return TrajectoryMatching(SOURCE, inner, fixed(0, 2), 1, 3, augment("dsa"), **changes)


def synset(soft=True):
    labels = torch.arange(9) % CLASSES
    images = torch.randn(9, 1, SIZE, SIZE, generator=generator(0, "images"), dtype=torch.float64)
    if soft:
        labels = 3 * torch.nn.functional.one_hot(labels, CLASSES).double()
    return SyntheticSet(images, labels, torch.tensor(0.02).double(), Transform("raw01"), "toy", tuple("abc"))


def leaves(start, shift=0.0):
    return {"images": start.images + shift, "lr": start.lr}


def test_one_sweep_does_not_see_the_images_of_another_one_of_the_same_step():
    start = synset()
    division = batch_division(matching(), start, 0, 2, 1)
    matches = division.matches(Sequential(division.part, 2))
    (first,), _ = matches(iter([leaves(start)]), None, 5, 0)
    (moved,), _ = matches(iter([leaves(start, 1.0)]), None, 5, 0)  # as where a trial takes another's checkpoint
    (again,), _ = matches(iter([leaves(start)]), None, 5, 0)
    assert first.loss == again.loss != moved.loss
    assert all(torch.equal(a, b) for a, b in zip(first.gradients, again.gradients, strict=True))


def test_any_worker_has_the_same_bits_and_gives_what_is_wanted():
    start, theta = synset(), MODEL.init(generator(7)).double()
    outer = (0, {"images": start.images, "labels": start.labels}, 4, generator(1).initial_seed())
    used, fresh = (BatchShard(matching(), start, 2) for _ in range(2))
    for step in range(3):
        assert torch.equal(used(1, outer, step, (theta,)), BatchShard(matching(), start, 2)(1, outer, step, (theta,)))
    slopes = used(1, outer, 2, (theta, theta), (True, True))
    assert all(torch.equal(a, b) for a, b in zip(slopes, fresh(1, outer, 2, (theta, theta), (True, True)), strict=True))
    assert (slopes.x.shape, slopes.y.shape) == ((5, 1, SIZE, SIZE), (5, CLASSES))
    assert used(1, outer, 2, (theta, theta), (True, False)).y is None
    cheap = BatchShard(matching(backprop="truncated"), start, 2)(1, outer, 2, (theta, theta), (True, True))
    assert cheap.theta is None
    assert torch.equal(cheap.x, slopes.x)


@pytest.mark.rows("rollouts", [1, 3])
def test_classes_as_labels_and_several_rollouts(rollouts):
    start = synset(soft=False)
    found = []
    for shards in (1, 4):
        division = batch_division(matching(batch_size=5), start, 0, shards, rollouts)
        (mean,), _ = division.matches(Sequential(division.part, shards))(iter([leaves(start)]), None, 2, 0)
        found.append(mean)
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-13)
    for a, b in zip(found[0].gradients, found[1].gradients, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()
