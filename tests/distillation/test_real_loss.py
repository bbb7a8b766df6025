"""Loss on real images after a training on the synthetic set: against a training that PyTorch does, and its window."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.real_loss import RealLoss
from raydd.models.zoo import build
from raydd.numerics.adam import begin
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel, split
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator

CLASSES, STEPS = 3, 6


def make():
    return build("ConvNetW8", channels=1, size=8, classes=CLASSES)


MODEL = FlatModel(make)
REAL = torch.randn(20, 1, 8, 8, generator=generator(0, "real"), dtype=torch.float64)


def real(count, rng):
    rows = torch.randperm(len(REAL), generator=rng)[:count]
    return REAL[rows], rows % CLASSES


def inner(theta, x, y):
    return cross_entropy(MODEL(theta, x), y)


def synset(dtype=torch.float64):
    images = torch.randn(6, 1, 8, 8, generator=generator(0, "images"), dtype=torch.float64).to(dtype)
    labels = torch.arange(CLASSES).repeat(2)
    return SyntheticSet(images, labels, torch.tensor(0.02, dtype=dtype), Transform("raw01"), "toy", ("a", "b", "c"))


def objective(**changes):
    plain = RealLoss(MODEL, inner, real, 8, STEPS, 90, STEPS, augment("none"))
    return replace(plain, **changes)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("window", "backprop"), [(STEPS, "adjoint"), (STEPS, "full"), (2, "adjoint"), (2, "full")])
def test_it_is_the_loss_of_a_training_and_its_gradient(optimizer, window, backprop):
    """The oracle: the same training by hand on functional calls, where steps before the window see constant images."""
    given = objective(optimizer=optimizer, window=window, backprop=backprop)
    images, lr = synset().images.requires_grad_(), torch.tensor(0.02, dtype=torch.float64).requires_grad_()
    current = synset().with_leaves({"images": images, "lr": lr})
    loss, state = given.loss(current, None, 4, generator(7))
    assert state is None
    ours = torch.autograd.grad(loss, [images, lr])

    rng = generator(7)
    network = make().double()
    theta = {name: value.clone() for name, value in split(MODEL.init(rng).double(), MODEL.layout).items()}
    moments = {name: (0.0, 0.0) for name in theta}
    for t in range(1, STEPS + 1):
        fixed = t <= STEPS - window
        x, rate = (images.detach(), lr.detach()) if fixed else (images, lr)
        at = {
            name: value.detach().requires_grad_() if fixed or t == STEPS - window + 1 else value
            for name, value in theta.items()
        }
        out = nn.functional.cross_entropy(functional_call(network, at, (x,)), current.labels)
        gradients = torch.autograd.grad(out, list(at.values()), create_graph=not fixed)
        theta = {}
        for name, gradient in zip(at, gradients, strict=True):
            if optimizer == "sgd":
                theta[name] = at[name] - rate * gradient
                continue
            m, v = moments[name]
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            moments[name] = (m.detach(), v.detach()) if fixed else (m, v)
            theta[name] = at[name] - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t) + 1e-300).sqrt() + 1e-8)
    rows = torch.randperm(len(REAL), generator=rng)[:8]
    wanted = nn.functional.cross_entropy(functional_call(network, theta, (REAL[rows],)), rows % CLASSES)
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=0)
    for one, other in zip(ours, torch.autograd.grad(wanted, [images, lr]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10 * float(other.abs().max()))


def places(given, step, count=600):
    """The windows of an outer step, as often as each was drawn."""
    current, start = synset(torch.float32), begin(MODEL.init(generator(0)))
    from raydd.distillation.student_batches import student_batches

    batches = student_batches(current.images, current.targets, STEPS, None, augment("none"), generator(1))
    return Counter(given.choose_window(step, start, batches, current.lr, generator(2, draw)) for draw in range(count))


def test_the_window_of_bptt_is_the_whole_training_or_its_end():
    assert {*places(objective(), 0, 5)} == {(0, STEPS)}
    assert {*places(objective(window=2), 0, 5)} == {(STEPS - 2, 2)}


def test_the_window_of_rat_bptt_lies_anywhere():
    drawn = places(objective(window=2, position="random"), 0)
    assert {*drawn} == {(first, 2) for first in range(STEPS - 1)}
    assert all(600 / 5 * 0.7 < count < 600 / 5 * 1.3 for count in drawn.values())


def test_the_window_of_at_bptt_follows_the_gradients(monkeypatch):
    """Norms that grow: early it starts late and is long, in the middle anywhere, and in the end it lies early."""
    norms = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0, 8.0])
    monkeypatch.setattr(RealLoss, "_walk", lambda self, at, batches, lr: (at, norms))
    given = objective(window=3, position="gradient", radius=1)
    early, middle, late = (places(given, step) for step in (0, 45, 89))
    chances = torch.softmax(norms, 0)
    assert early.most_common(1)[0][0] == (3, 3)  # the largest change, whose window is cut to fit
    assert early.most_common(1)[0][1] > 500 > 0.7 * 600 * float(chances[-1])
    assert {*middle} == {(first, 4) for first in range(STEPS - 3)}
    assert {length for _, length in late} == {2}
    assert late.most_common(1)[0][0] == (0, 2)
    assert max(first for first, _ in late) <= STEPS - 2


def test_the_norms_are_those_of_the_students_gradients():
    given, current = objective(optimizer="sgd"), synset()
    from raydd.distillation.student_batches import student_batches

    theta = MODEL.init(generator(0)).double()
    batches = student_batches(current.images, current.targets, 3, 4, augment("none"), generator(1))
    end, norms = given._walk(begin(theta), batches, current.lr)
    for (x, y, _), norm in zip(batches, norms, strict=True):
        at = theta.requires_grad_()
        (gradient,) = torch.autograd.grad(inner(at, x, y), at)
        torch.testing.assert_close(gradient.norm(), norm)
        theta = (theta - current.lr * gradient).detach()
    torch.testing.assert_close(end.theta, theta)
