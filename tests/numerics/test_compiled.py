"""Compiled functions and their derivatives, against finite differences and autograd in float64."""

import shutil

import pytest
import torch
from torch import nn

from raydd.numerics.compiled import Compiled, check_compiler
from raydd.numerics.flat import FlatModel, classification_loss
from raydd.numerics.unroll import Batch, unroll

CPU = torch.device("cpu")


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Softplus(), nn.Flatten(), nn.Linear(8, 3))


@pytest.fixture(params=["traced", pytest.param("compiled", marks=pytest.mark.slow)])
def _tier(request, monkeypatch):
    """The tracing alone takes a second, the compiler half a minute."""
    if request.param == "traced":
        monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


def numbers(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


FUNCTIONS = {
    "scalar": (lambda x, y: (x * y.sin()).sum() ** 2, True),
    "linear": (lambda x, y: 2 * x.sum(), True),
    "vector": (lambda x, y: torch.softmax(x, 0) * y.cos(), False),
}


@pytest.mark.usefixtures("_tier")
@pytest.mark.parametrize(("function", "scalar"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_both_derivatives_are_those_of_finite_differences(function, scalar):
    one, inputs = Compiled(function, scalar), (numbers(4), numbers(4))
    torch.testing.assert_close(one(*inputs), function(*inputs), rtol=1e-14, atol=1e-15)
    assert torch.autograd.gradcheck(one, inputs)
    assert torch.autograd.gradgradcheck(one, inputs)


def test_without_gradients_the_value_alone_is_computed(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    one = Compiled(lambda x: (x * x).sum(), scalar=True)
    with torch.no_grad():
        assert not one(numbers(3)).requires_grad
    assert not one(numbers(3).detach()).requires_grad
    assert [name for name, *_ in one._kernels] == ["value"]


@pytest.mark.usefixtures("_tier")
@pytest.mark.parametrize("backprop", ["adjoint", "full", "truncated"])
def test_a_students_path_has_the_gradient_of_autograd(backprop):
    """Labels, weights of the loss, shapes that differ from step to step, and any memory."""
    found = {}
    for compile in (False, True):
        model = FlatModel(network, compile)
        theta = model.init(torch.Generator().manual_seed(0)).double()
        x, y = numbers(5, 1, 4, 4), torch.softmax(numbers(5, 3).detach(), 1).requires_grad_()
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

        def inner(theta, x, y, model=model):
            return 0.7 * model.run(classification_loss, theta, x, y, scalar=True)

        batches = [Batch(x, y), Batch(x[:3], y[:3]), Batch(x, y)]
        for memory in (0, None):
            path = unroll(inner, theta, batches, lr, backprop, None, memory)
            loss = (path[-1] - 1).square().sum() + path[1].square().sum()
            found[compile, memory] = torch.autograd.grad(loss, (x, y, lr))
    for one, other in zip(found[True, 0], found[True, None], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(found[True, 0], found[False, 0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_a_machine_without_a_compiler_is_told_of_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"compile = true needs a C\+\+ compiler, and this machine has none; install"):
        check_compiler(CPU)
    check_compiler(torch.device("cuda"))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    check_compiler(CPU)


def test_bfloat16_rounds_the_products_and_no_result():
    """The error that docs/speed.md states: bfloat16 has 8 bits."""
    x, y = numbers(64, 1, 4, 4).detach().float(), torch.arange(64) % 3
    gradients = {}
    for dtype in (None, torch.bfloat16):
        model = FlatModel(network, dtype=dtype)
        theta = model.init(torch.Generator().manual_seed(0)).requires_grad_()
        assert model(theta, x).dtype == torch.float32
        (gradients[dtype],) = torch.autograd.grad(classification_loss(model, theta, x, y), theta)
    assert gradients[torch.bfloat16].dtype == torch.float32
    error = (gradients[torch.bfloat16] - gradients[None]).norm() / gradients[None].norm()
    assert 1e-4 < error < 0.03
