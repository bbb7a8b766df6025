"""The implicit gradient against finite differences of the loss where the inner problem is solved densely."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from raydd.config.parsing import build as assemble
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.distillation.implicit_gradient import ImplicitGradient, shortened
from raydd.distillation.network_pool import Pool
from raydd.distillation.setup import Setup
from raydd.methods import METHODS, complete
from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel, split
from raydd.numerics.rng import generator

CLASSES, RIDGE, BATCH = 3, 0.01, 7
REAL = torch.randn(20, 1, 8, 8, generator=generator(0, "real"), dtype=torch.float64)


def make():
    return build("ConvNetW3D1NNAS", channels=1, size=8, classes=CLASSES)


MODEL = FlatModel(make)
NETWORK = make().double()


def real(count, rng):
    rows = torch.randperm(len(REAL), generator=rng)[:count]
    return REAL[rows], rows % CLASSES


EXACT = ImplicitGradient(real, BATCH, CLASSES, RIDGE, Pool(MODEL, 2, 100, 0.01), steps=60, clip=False)


def synset():
    images = torch.randn(6, 1, 8, 8, generator=generator(0, "images"), dtype=torch.float64)
    labels = torch.arange(CLASSES).repeat(2)
    return SyntheticSet(images, labels, torch.tensor(0.02), Transform("raw01"), "toy", ("a", "b", "c"))


def rows_of_kernel(theta, x):
    """One row for every image and class: derivatives by the body's weights and the last bias, and features."""
    named = {name: value.double() for name, value in split(theta, MODEL.layout).items()}
    head = named.pop("classifier.weight")
    jacobian = jacrev(lambda body: functional_call(NETWORK, body | {"classifier.weight": head}, (x,)))(named)
    flat = torch.cat([value.flatten(2) for value in jacobian.values()], 2)
    features = functional_call(
        NETWORK.body, {k.removeprefix("body."): v for k, v in named.items() if "body" in k}, (x,)
    )
    ones = torch.eye(CLASSES, dtype=torch.float64)
    heads = torch.einsum("bf,kj->bkjf", features.flatten(1), ones).flatten(2)
    return torch.cat([flat, heads], 2).flatten(0, 1)


TARGETS = nn.functional.one_hot(torch.arange(CLASSES).repeat(2), CLASSES).double() - 1 / CLASSES


def outer_loss(theta, images, seed, mirror=False, scale=0.0, targets=TARGETS):
    """Ridge regression on all weights at once, those of the last layer among them: a dense system, no elimination."""
    ridge = RIDGE * len(images)
    if mirror:
        images, targets = torch.cat([images, images.flip(3)]), torch.cat([targets, targets])
    rows = torch.randperm(len(REAL), generator=generator(seed))[:BATCH]
    ours, theirs = rows_of_kernel(theta, images), rows_of_kernel(theta, REAL[rows])
    weights = torch.linalg.solve(ours.T @ ours + ridge * torch.eye(ours.shape[1]), ours.T @ targets.flatten())
    guess = (theirs @ weights).view(-1, CLASSES)
    return nn.functional.cross_entropy(guess * torch.tensor(scale).exp(), rows % CLASSES)


def run(objective, seed=2):
    images, state = synset().images.requires_grad_(), objective.init(generator(1))
    loss, after = objective.loss(synset().with_leaves({"images": images}), state, 0, generator(seed))
    (gradient,) = torch.autograd.grad(loss, images)
    (name,) = [key for key in state["pool"] if after["pool"][key] is not state["pool"][key]]
    return loss.detach(), gradient, state["pool"][name]["theta"].double(), after


def differences(theta, mirror=False, step=1e-5):
    images, places = synset().images, torch.randperm(6 * 64, generator=generator(3))[:25]
    slopes = []
    for place in places:
        moved = [images.clone(), images.clone()]
        for sign, each in zip((1, -1), moved, strict=True):
            each.view(-1)[place] += sign * step
        high, low = (outer_loss(theta, each, 2, mirror) for each in moved)
        slopes.append((high - low) / (2 * step))
    return places, torch.stack(slopes)


@pytest.mark.parametrize("mirror", [False, True])
def test_the_gradient_is_that_of_the_loss_at_the_exact_inner_solution(mirror):
    loss, gradient, theta, _ = run(replace(EXACT, mirror=mirror))
    torch.testing.assert_close(loss, outer_loss(theta, synset().images, 2, mirror), rtol=1e-7, atol=0)
    places, slopes = differences(theta, mirror)
    torch.testing.assert_close(gradient.view(-1)[places], slopes, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("mirror", [False, True])
def test_learned_labels_have_the_gradient_too_and_keep_their_margin(mirror):
    labels = TARGETS + 0.1 * torch.randn(6, CLASSES, generator=generator(4), dtype=torch.float64)
    labels[0] = torch.tensor([0.1, 0.0, -0.1])  # nearer than 1 / (2 K)
    state, objective = EXACT.init(generator(1)), replace(EXACT, mirror=mirror)
    labels.requires_grad_()
    learned = replace(synset(), labels=labels, regression=True)
    loss, after = objective.loss(learned, state, 0, generator(2))
    (gradient,) = torch.autograd.grad(loss, labels)
    (name,) = [key for key in state["pool"] if after["pool"][key] is not state["pool"][key]]
    theta = state["pool"][name]["theta"].double()

    def reference(at):
        ordered = at.sort(dim=1, descending=True).values
        margin = torch.minimum(ordered[:, 0] - ordered[:, 1], torch.tensor(1 / (2 * CLASSES)))
        return outer_loss(theta, synset().images, 2, mirror, targets=at) - margin.mean()

    torch.testing.assert_close(loss, reference(labels), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(reference(labels), labels)[0], rtol=1e-5, atol=1e-9)


def test_the_error_shrinks_with_the_steps_of_the_solver():
    _, _, theta, _ = run(EXACT)
    places, slopes = differences(theta)
    errors = [
        float((run(replace(EXACT, steps=steps))[1].view(-1)[places] - slopes).norm() / slopes.norm())
        for steps in (1, 2, 4, 6)
    ]
    assert all(after < before / 3 for before, after in pairwise(errors)), errors
    assert errors[-1] < 1e-5


def test_the_implicit_part_counts_and_is_at_most_as_long_as_the_direct_one(monkeypatch):
    whole = run(EXACT)[1]
    monkeypatch.setattr("raydd.distillation.implicit_gradient.shortened", lambda implicit, direct: 0 * direct)
    direct = run(replace(EXACT, clip=True))[1]
    implicit = whole - direct
    assert implicit.norm() > 0.05 * direct.norm()
    monkeypatch.undo()
    for factor, clip in ((0.5, 0.5), (2.0, 1.0)):
        torch.testing.assert_close(
            shortened(factor * direct / direct.norm() * implicit.norm(), implicit).norm(), clip * implicit.norm()
        )
    torch.testing.assert_close(run(replace(EXACT, clip=True))[1], direct + shortened(implicit, direct))


def test_images_and_labels_are_each_shortened_by_themselves(monkeypatch):
    """As each would be if its implicit gradient were the longer one, which it is in no small example."""

    def gradients(factors, *, clip=True):
        monkeypatch.setattr(
            "raydd.distillation.implicit_gradient.shortened", lambda implicit, direct: factors[implicit.ndim] * implicit
        )
        leaves = {"images": synset().images.requires_grad_(), "labels": TARGETS.clone().requires_grad_()}
        learned, objective = replace(synset(), **leaves, regression=True), replace(EXACT, clip=clip)
        loss, _ = objective.loss(learned, objective.init(generator(1)), 0, generator(2))
        return torch.autograd.grad(loss, list(leaves.values()))

    whole, direct, found = gradients({}, clip=False), gradients({4: 0, 2: 0}), gradients({4: 0.5, 2: 0.25})
    for one, other, share, seen in zip(whole, direct, (0.5, 0.25), found, strict=True):
        assert (one - other).norm() > 0.05 * other.norm()
        torch.testing.assert_close(seen, other + share * (one - other))


def test_the_scale_of_the_predictions_takes_a_step_of_adam_on_the_loss():
    objective = EXACT
    state = objective.init(generator(1))
    state["scale"]["theta"] = torch.tensor([0.7], dtype=torch.float64)
    loss, after = objective.loss(synset(), state, 0, generator(2))
    (name,) = [key for key in state["pool"] if after["pool"][key] is not state["pool"][key]]
    theta = state["pool"][name]["theta"].double()
    torch.testing.assert_close(loss, outer_loss(theta, synset().images, 2, scale=0.7), rtol=1e-7, atol=0)
    high, low = (outer_loss(theta, synset().images, 2, scale=0.7 + step) for step in (1e-5, -1e-5))
    slope = (high - low) / 2e-5
    torch.testing.assert_close(after["scale"]["theta"], 0.7 - 0.03 * slope.sign()[None], rtol=1e-4, atol=0)
    assert after["scale"]["steps"] == 1


def test_a_network_takes_several_steps_after_its_use_until_it_is_renewed():
    objective = replace(EXACT, steps=1, pool=replace(EXACT.pool, steps=3, renew=5))
    state, seen = objective.init(generator(1)), set()
    for step in range(30):
        _, state = objective.loss(synset(), state, step, generator(2, step))
        seen |= {network["steps"] for network in state["pool"].values()}
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("layer", "mirror"), [({}, False), ({"data": {"flip": True}}, True)])
def test_it_is_composed_as_configured(layer, mirror):
    """Digits must not be mirrored."""
    own = {"method": "rcig", "experts": {"network": "ConvNetW8"}, "kernel": {"pool": 2, "solver_steps": 3}}
    config = complete(assemble(DistillConfig, own, layer))
    work = open_workspace(config.data, config.experts.network, torch.device("cpu"))
    objective = METHODS["rcig"](Setup(config, work, None)).objective
    assert (objective.mirror, objective.steps, objective.clip) == (mirror, 3, True)
    assert (objective.regularisation, objective.batch_real) == (5e-4, 1024)
    assert (objective.pool.size, objective.pool.steps, objective.pool.renew, objective.pool.lr) == (2, 15, 100, 5e-5)


def test_a_network_without_a_last_linear_layer_is_refused():
    objective = replace(EXACT, classes=CLASSES + 1)
    with pytest.raises(ValueError, match="has no linear layer from its 48 features to 4 classes"):
        objective.loss(synset(), objective.init(generator(1)), 0, generator(2))
