"""CAFE's loss against loops over layers and classes."""

import pytest
import torch

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.feature_alignment import FeatureAlignment
from raydd.distillation.network_sources import RandomInit
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import derived, generator

CLASSES = 3
MODEL = FlatModel(lambda: build("ConvNetW8D3", channels=1, size=16, classes=CLASSES))
POOL = torch.randn(CLASSES, 7, 1, 16, 16, generator=generator(0, "pool"), dtype=torch.float64)
POOL += torch.arange(CLASSES)[:, None, None, None, None]


def real(label, count, rng):
    return POOL[label][torch.randperm(7, generator=rng)[:count]]


def synset():
    images = torch.randn(6, 1, 16, 16, generator=generator(0, "images"), dtype=torch.float64)
    labels = torch.arange(CLASSES).repeat(2)
    return SyntheticSet(images, labels, torch.tensor(0.02), Transform("raw01"), "toy", ("a", "b", "c"))


def test_it_is_the_sum_over_layers_and_the_classification_by_means():
    objective = FeatureAlignment(RandomInit(MODEL), MODEL, real, CLASSES, 4, augment("none"), (1.0, 0.1))
    images = synset().images.requires_grad_()
    loss, state = objective.loss(
        synset().with_leaves({"images": images}), objective.init(generator(0)), 0, generator(5)
    )
    assert state == {"networks": None}
    rng = generator(5)
    theta = MODEL.init(derived(generator(5), "networks")).double()
    batches = [real(label, 4, rng) for label in range(CLASSES)]
    expected, weights = torch.zeros((), dtype=torch.float64), (1.0, 0.1, 1.0)
    own = [images[synset().labels == label] for label in range(CLASSES)]
    for layer, weight in enumerate(weights):
        for label in range(CLASSES):
            theirs = MODEL.layers(theta, batches[label])[layer].mean(0).detach()
            ours = MODEL.layers(theta, own[label])[layer].mean(0)
            expected = expected + weight * ((theirs - ours) ** 2).sum() / CLASSES
    means = [MODEL.layers(theta, own[label])[-1].mean(0) for label in range(CLASSES)]
    for label in range(CLASSES):
        for features in MODEL.layers(theta, batches[label])[-1].detach():
            scores = torch.stack([features @ mean for mean in means])
            expected = expected + 0.01 * (torch.logsumexp(scores, 0) - scores[label])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    ours, wanted = (torch.autograd.grad(value, images)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, wanted, rtol=1e-8, atol=1e-10)
