"""Groups of classes as parts of a step; tests/methods compares their sums with whole steps for every method."""

import torch

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.class_shards import ClassShard, class_division
from raydd.distillation.image_statistics import STATISTICS
from raydd.distillation.network_sources import RandomInit, Trained
from raydd.distillation.parts import Sequential
from raydd.distillation.statistic_matching import StatisticMatching
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.numerics.statistics import means

SIZE, CLASSES, IPC = 8, 5, 2
MODEL = FlatModel(lambda: build("MLP", channels=1, size=SIZE, classes=CLASSES))
POOL = torch.randn(CLASSES, 9, 1, SIZE, SIZE, generator=generator(0, "pool"), dtype=torch.float64)


def real(label, count, rng):
    return POOL[label][torch.randperm(9, generator=rng)[:count]]


def matching(networks, **changes):
    view = augment("dsa", siamese=True)
    objective = StatisticMatching(networks, MODEL, STATISTICS["features"], means, real, CLASSES, 4, view, **changes)
    labels = torch.arange(CLASSES).repeat(IPC)
    images = torch.randn(len(labels), 1, SIZE, SIZE, generator=generator(0, "images"), dtype=torch.float64)
    return objective, SyntheticSet(images, labels, torch.tensor(0.1), Transform("raw01"), "toy", tuple("abcde"))


class Counted(Sequential):
    """Keeps what each call was given."""

    calls = ()

    def __call__(self, *arguments):
        Counted.calls = (*Counted.calls, arguments)
        return super().__call__(*arguments)


def test_a_shard_reads_the_images_of_its_own_classes_alone():
    objective, synset = matching(RandomInit(MODEL))
    shard, rows = ClassShard(objective, synset, 0, 2), [2, 3, 4, 7, 8, 9]  # classes 2, 3 and 4
    spoiled = torch.full_like(synset.images, torch.nan)
    spoiled[rows] = synset.images[rows]
    expected, found = (shard(1, images, None, 3, 0) for images in (synset.images, spoiled))
    assert len(found) == 3
    for (loss, gradient), (same_loss, same_gradient) in zip(found, expected, strict=True):
        assert loss == same_loss > 0
        assert gradient.shape == (IPC, 1, SIZE, SIZE)
        assert torch.equal(gradient, same_gradient)


def test_networks_without_a_state_are_drawn_by_every_worker_and_others_once():
    drawn = []

    class Once(Trained):
        def draw(self, *arguments):
            drawn.append(1)
            return super().draw(*arguments)

    for networks, sent in ((RandomInit(MODEL), 0), (Once(MODEL, 5, 1, 0.1, 4, augment("none")), 1)):
        objective, synset = matching(networks)
        division, Counted.calls = class_division(objective, synset, 0, 3), ()
        state = objective.init(generator(0))
        rollouts, after = division.matches(Counted(division.part, 3))(
            iter([{"images": synset.images}] * CLASSES), state, 0, 0
        )
        assert len(list(rollouts)) == CLASSES
        ((_, pair, step, attempt),) = Counted.calls
        assert (pair is not None, step, attempt) == (bool(sent), 0, 0)
        assert len(drawn) == sent
    assert torch.equal(pair[0], after["networks"]["theta"])


def test_each_class_sees_its_images_as_they_are_before_its_own_part():
    objective, synset = matching(RandomInit(MODEL), each_class=True)
    division, Counted.calls = class_division(objective, synset, 0, 2), ()
    points = ({"images": synset.images + label} for label in range(CLASSES))
    division.matches(Counted(division.part, 2))(points, objective.init(generator(0)), 0, 0)
    assert torch.equal(Counted.calls[0][0], synset.images + synset.labels[:, None, None, None])
