"""Similarity and supervised contrast against their equations in plain loops."""

import math

import pytest
import torch

from raydd.numerics.contrast import similarity, supervised_contrast
from raydd.numerics.rng import generator


def rows(count, seed=0):
    return torch.randn(count, 4, generator=generator(seed), dtype=torch.float64)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_similarity_is_the_mean_over_pairs():
    first, second = rows(3), rows(3, 1)
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    assert float(similarity(first, second)) == pytest.approx(sum((cosine(a, b) + 1) / 2 for a, b in pairs) / 3)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_contrast_is_its_equation(temperature):
    features, labels = rows(5), [0, 1, 0, 1, 1]
    z, total = features.tolist(), 0.0
    for i in range(5):
        others = [a for a in range(5) if a != i]
        below = sum(math.exp(cosine(z[i], z[a]) / temperature) for a in others)
        alike = [p for p in others if labels[p] == labels[i]]
        total -= sum(math.log(math.exp(cosine(z[i], z[p]) / temperature) / below) for p in alike) / len(alike)
    assert float(supervised_contrast(features, torch.tensor(labels), temperature)) == pytest.approx(total / 5)


def test_gradients_are_exact():
    labels = torch.tensor([0, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda f: supervised_contrast(f, labels, 0.5), rows(4).requires_grad_())
    assert torch.autograd.gradcheck(similarity, (rows(3).requires_grad_(), rows(3, 1).requires_grad_()))


def test_lengths_do_not_matter():
    labels, lengths = torch.tensor([0, 1, 0, 1]), torch.tensor([[1.0], [2.0], [3.0], [0.1]])
    torch.testing.assert_close(supervised_contrast(rows(4), labels), supervised_contrast(rows(4) * lengths, labels))
