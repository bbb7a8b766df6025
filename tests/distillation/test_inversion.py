"""Inversion of an expert against a forward pass by hand."""

import pytest
import torch
from torch import nn

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.inversion import Inversion
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel, split
from raydd.numerics.rng import generator

CLASSES = 3


def make():
    return build("ConvNetW8BN", channels=1, size=8, classes=CLASSES)


MODEL = FlatModel(make)
THETAS = [MODEL.init(generator(0, expert)) for expert in range(2)]
RUNNING = [
    torch.rand(sum(slot.numel for slot in MODEL.statistics_layout), generator=generator(1, e)) + 0.5 for e in (0, 1)
]


class Source:
    epochs, experts = 3, range(2)

    def snapshot(self, expert, epoch):
        assert epoch == 3
        return THETAS[expert]


def synset():
    images = torch.randn(6, 1, 8, 8, generator=generator(0, "images"), dtype=torch.float64)
    labels = torch.arange(CLASSES).repeat(2)
    return SyntheticSet(images, labels, torch.tensor(0.02), Transform("raw01"), "toy", ("a", "b", "c"))


@pytest.mark.parametrize("batch", [None, 4])
def test_it_is_the_cross_entropy_and_the_distance_of_each_norms_statistics(batch):
    objective = Inversion(MODEL, Source(), lambda expert: RUNNING[expert], augment("none"), 0.3, batch)
    images = synset().images.requires_grad_()
    loss, state = objective.loss(synset().with_leaves({"images": images}), None, 0, generator(4))
    assert state is None
    rng = generator(4)
    expert = int(torch.randint(2, (), generator=rng))
    rows = torch.arange(6) if batch is None else torch.randperm(6, generator=rng)[:batch]
    network = make().double().eval()
    network.load_state_dict(
        split(THETAS[expert].double(), MODEL.layout) | split(RUNNING[expert].double(), MODEL.statistics_layout),
        strict=False,
    )
    x, expected = images[rows], 0.0
    for part in network.body:
        if isinstance(part, nn.BatchNorm2d):
            means = torch.stack([x[:, channel].mean() for channel in range(x.shape[1])])
            spreads = torch.stack([((x[:, c] - x[:, c].mean()) ** 2).mean() for c in range(x.shape[1])])
            expected = expected + 0.3 * ((means - part.running_mean).norm() + (spreads - part.running_var).norm())
        x = part(x)
    logits = network.classifier(x.flatten(1))
    expected = expected + nn.functional.cross_entropy(logits, synset().labels[rows])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    ours, wanted = (torch.autograd.grad(value, images)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-9)


def test_the_hooks_are_gone_afterwards():
    objective = Inversion(MODEL, Source(), lambda expert: RUNNING[expert], augment("none"), 0.3)
    objective.loss(synset(), None, 0, generator(4))
    assert not any(module._forward_pre_hooks for module in MODEL._evaluated.modules())
