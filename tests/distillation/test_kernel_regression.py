"""Kernel regression from a synthetic set to real images: its error, and the pool of networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from raydd.config.parsing import build as assemble
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.distillation.kernel_regression import KernelRegression
from raydd.distillation.network_pool import Pool, centred
from raydd.distillation.setup import Setup, initial
from raydd.methods import complete
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel, split
from raydd.numerics.kernels import tangent
from raydd.numerics.rng import generator

CLASSES = 3


def make():
    return build("ConvNetW8", channels=1, size=8, classes=CLASSES)


MODEL = FlatModel(make)
REAL = torch.randn(20, 1, 8, 8, generator=generator(0, "real"), dtype=torch.float64)


def real(count, rng):
    rows = torch.randperm(len(REAL), generator=rng)[:count]
    return REAL[rows], rows % CLASSES


def synset():
    images = torch.randn(6, 1, 8, 8, generator=generator(0, "images"), dtype=torch.float64)
    labels = torch.arange(CLASSES).repeat(2)
    return SyntheticSet(images, labels, torch.tensor(0.02), Transform("raw01"), "toy", ("a", "b", "c"))


POOL = Pool(MODEL, 3, 4, 0.01)
FREPO = KernelRegression(real, 9, CLASSES, augment("none"), 1e-3, POOL)


@pytest.mark.parametrize("pool", [POOL, None])
def test_the_loss_is_the_mean_squared_error_of_the_regression(pool):
    """By the normal equations in the kernel's own matrices, with labels written out; and its gradient."""
    objective, images = replace(FREPO, pool=pool), synset().images.requires_grad_()
    state = objective.init(generator(1))
    loss, after = objective.loss(synset().with_leaves({"images": images}), state, 0, generator(2))
    (ours,) = torch.autograd.grad(loss, images)
    targets = torch.eye(CLASSES, dtype=torch.float64)[torch.arange(CLASSES).repeat(2)] - 1 / CLASSES
    reference = expected(pool, state, after, images, targets)
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours, torch.autograd.grad(reference, images)[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("pool", [POOL, None])
def test_labels_are_learned_by_the_regression_and_keep_their_margin(pool):
    labels = 0.4 * torch.randn(6, CLASSES, generator=generator(4), dtype=torch.float64)
    largest, second = labels.sort(dim=1, descending=True).values[:, :2].T
    assert 0 < int((largest - second > 1 / CLASSES).sum()) < 6  # both sides of the bound occur
    leaves = {"images": synset().images.requires_grad_(), "labels": labels.requires_grad_()}
    objective = replace(FREPO, pool=pool)
    state = objective.init(generator(1))
    learned = replace(synset(), **leaves, regression=True)
    loss, after = objective.loss(learned, state, 0, generator(2))
    ours = torch.autograd.grad(loss, list(leaves.values()))
    reference = expected(pool, state, after, *leaves.values())
    if pool is not None:
        ordered = labels.sort(dim=1, descending=True).values
        reference = reference - torch.minimum(ordered[:, 0] - ordered[:, 1], torch.tensor(1 / CLASSES)).mean()
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=0)
    theirs = torch.autograd.grad(reference, list(leaves.values()))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


def expected(pool, state, after, at, targets):
    rows = torch.randperm(len(REAL), generator=generator(2))[:9]
    if pool is None:
        across, within = (tangent(x.flatten(1), at.flatten(1), 3) for x in (REAL[rows], at))
    else:
        name = next(key for key in state if after[key] is not state[key])
        theta = state[name]["theta"].double()
        f, g = MODEL.features(theta, REAL[rows]).detach(), MODEL.features(theta, at)
        across, within = f @ g.T, g @ g.T
    wanted = torch.eye(CLASSES, dtype=torch.float64)[rows % CLASSES] - 1 / CLASSES
    solved = torch.linalg.inv(within + 1e-3 * within.diagonal().mean() * torch.eye(6)) @ targets
    return ((across @ solved - wanted) ** 2).sum(1).mean() / 2


def test_labels_are_centred():
    torch.testing.assert_close(centred(torch.tensor([0, 2]), 3), torch.tensor([[2.0, -1, -1], [-1, -1, 2]]) / 3)
    soft = torch.tensor([[0.5, 0.25, 0.25]])
    torch.testing.assert_close(centred(soft, 3), soft - 1 / 3)


@pytest.mark.parametrize("method", ["frepo", "rcig", "kip"])
def test_labels_start_as_centred_classes_and_frepos_over_the_root_of_a_tenth_of_them(method, tmp_path):
    labels = np.arange(30) % CLASSES
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "three.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    data = {"dataset": str(tmp_path / "three.npz")}
    for rate in (0.0, 0.1):
        config = complete(assemble(DistillConfig, {"method": method, "data": data, "lr": {"labels": rate}}))
        work = open_workspace(config.data, config.experts.network, torch.device("cpu"))
        start = initial(Setup(config, work, None))
        assert start.label_kind == ("targets" if rate else "hard")
    root = (CLASSES / 10) ** 0.5 if method == "frepo" else 1.0
    torch.testing.assert_close(start.labels, (torch.eye(CLASSES) - 1 / CLASSES) / root)


def test_the_used_network_takes_a_step_of_adam_on_the_set_and_the_others_stay():
    state = FREPO.init(generator(1))
    _, after = FREPO.loss(synset(), state, 0, generator(2))
    (name,) = [
        key for key in state if not torch.equal(after[key]["theta"], state[key]["theta"].to(after[key]["theta"]))
    ]
    theta = {
        key: value.clone().requires_grad_() for key, value in split(state[name]["theta"].double(), MODEL.layout).items()
    }
    optimizer = torch.optim.Adam(theta.values(), lr=0.01)
    logits = torch.func.functional_call(make().double(), theta, (synset().images,))
    targets = nn.functional.one_hot(synset().labels, CLASSES).double() - 1 / CLASSES
    (((logits - targets) ** 2).sum(1).mean() / 2).backward()
    optimizer.step()
    mine = split(after[name]["theta"], MODEL.layout)
    for key, value in theta.items():
        if not key.endswith("bias") or value.grad.abs().max() > 1e-9:  # a bias before a norm has gradients of rounding
            torch.testing.assert_close(mine[key], value.detach(), rtol=1e-5, atol=1e-8)
    assert after[name]["steps"] == 1


def test_a_network_is_renewed_after_its_uses():
    state, seen = FREPO.init(generator(1)), []
    for step in range(30):
        _, state = FREPO.loss(synset(), state, step, generator(2, step))
        seen.append([network["steps"] for network in state.values()])
    assert max(max(steps) for steps in seen) == POOL.renew - 1
    assert any(0 in steps for steps in seen[12:])


def test_a_kernel_of_pixels_carries_nothing():
    objective = replace(FREPO, pool=None)
    assert objective.init(generator(0)) == {}
    assert objective.loss(synset(), {}, 0, generator(0))[1] == {}
