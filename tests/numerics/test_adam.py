"""Adam: PyTorch's own as the optimiser, and against autograd in float64 as a student's."""

from types import SimpleNamespace

import pytest
import torch

from raydd.models.zoo import build
from raydd.numerics.adam import Adam, adam_step, begin, unroll_adam
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.unroll import Batch

STEPS = 5


@pytest.mark.parametrize(("kind", "decay"), [(torch.optim.Adam, 0.0), (torch.optim.AdamW, 0.01)])
def test_it_is_pytorchs_to_the_bit(kind, decay):
    ours, theirs = (torch.linspace(-1, 1, 7).requires_grad_() for _ in range(2))
    optimizer, reference = Adam(ours, 0.05, decay), kind([theirs], lr=0.05, weight_decay=decay)
    for step in range(20):
        gradient = torch.randn(7, generator=generator(0, step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
        assert torch.equal(ours, theirs)


def test_with_a_scale_it_learns_the_parameter_in_those_units():
    scale = torch.tensor([0.5, 2.0, 8.0])
    ours, theirs = torch.ones(3).requires_grad_(), (torch.ones(3) / scale).requires_grad_()
    optimizer, reference = Adam(ours, 0.05, scale=scale), torch.optim.Adam([theirs], lr=0.05)
    for step in range(10):
        gradient = torch.randn(3, generator=generator(0, step))
        ours.grad, theirs.grad = gradient.clone(), gradient * scale
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours / scale, theirs)


def problem(soft=True, dtype=torch.float64):
    """An MLP, none of whose gradients is rounding alone, on batches of 5 of 12 images under views of their own."""
    model, rng = FlatModel(lambda: build("MLP", channels=1, size=8, classes=4)), generator(0, "problem")
    images = torch.randn(12, 1, 8, 8, generator=rng, dtype=dtype).requires_grad_()
    labels = torch.randn(12, 4, generator=rng, dtype=dtype).requires_grad_()
    lr, theta = torch.tensor(0.01, dtype=dtype).requires_grad_(), model.init(rng).to(dtype)
    batches = []
    for _ in range(STEPS):
        rows = torch.randperm(12, generator=rng)[:5]
        y = labels[rows].softmax(1) if soft else rows % 4
        batches.append(Batch(images[rows], y, augment("dsa").draw((5, 1, 8, 8), rng)))

    def inner(theta, x, y):
        return cross_entropy(model(theta, x), y)

    leaves = [images, lr, *([labels] if soft else [])]
    return SimpleNamespace(inner=inner, theta=theta, batches=batches, lr=lr, leaves=leaves)


def naive(given, truncated):
    """Adam as its paper writes it; truncated: each step's gradient is taken at constant weights."""
    theta, m, v = given.theta.clone().requires_grad_(), 0.0, 0.0
    for t, (x, y, view) in enumerate(given.batches, 1):
        at = theta.detach().requires_grad_() if truncated else theta
        (g,) = torch.autograd.grad(given.inner(at, view(x), y), at, create_graph=True)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta = theta - given.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t) + 1e-300) ** 0.5 + 1e-8)
    return theta


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("mode", ["full", "adjoint", "truncated"])
def test_the_gradient_through_a_path_is_autograds(mode, soft):
    given = problem(soft)
    end = unroll_adam(given.inner, begin(given.theta), given.batches, given.lr, mode)
    weights = torch.randn(len(end), generator=generator(1), dtype=torch.float64)
    ours = torch.autograd.grad(end @ weights, given.leaves, retain_graph=True)
    reference = naive(given, truncated=mode == "truncated")
    torch.testing.assert_close(end, reference, rtol=1e-12, atol=1e-13)
    wanted = torch.autograd.grad(reference @ weights, given.leaves)
    for one, other in zip(ours, wanted, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11 * float(other.abs().max()))


def test_the_truncated_gradient_is_another_one():
    given = problem()
    ends = [
        unroll_adam(given.inner, begin(given.theta), given.batches, given.lr, mode) for mode in ("full", "truncated")
    ]
    assert torch.equal(*ends) or torch.allclose(*ends, rtol=1e-12)
    gradients = [torch.autograd.grad(end.square().sum(), given.leaves[0], retain_graph=True)[0] for end in ends]
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[0].norm()


@pytest.mark.parametrize("memory", [0, 3e5, None])
def test_the_bits_do_not_depend_on_the_memory(memory):
    results = []
    for budget in (0, memory):
        given = problem(dtype=torch.float32)
        end = unroll_adam(given.inner, begin(given.theta), given.batches, given.lr, "adjoint", budget)
        results.append((end, *torch.autograd.grad(end.square().sum(), given.leaves)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_it_goes_on_from_a_student_that_has_taken_steps():
    given = problem()
    whole = unroll_adam(given.inner, begin(given.theta), given.batches, given.lr, "adjoint")
    at = begin(given.theta)
    for x, y, view in given.batches[:2]:
        theta = at.theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(given.inner(theta, view(x), y), theta)
        at = type(at)(
            *(each.detach() if isinstance(each, torch.Tensor) else each for each in adam_step(at, gradient, given.lr))
        )
    rest = unroll_adam(given.inner, at, given.batches[2:], given.lr, "adjoint")
    torch.testing.assert_close(rest, whole, rtol=1e-12, atol=1e-13)


def test_a_weight_that_no_gradient_ever_reached_has_finite_derivatives():
    """The root of its second moment is 0, where the derivative of a root is infinite."""
    x, lr = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True), torch.tensor(0.1, dtype=torch.float64)

    def inner(theta, x, y):
        return (theta[:2] * x).square().sum() + 0 * theta[2]

    for mode in ("full", "adjoint"):
        start = begin(torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64))
        end = unroll_adam(inner, start, [Batch(x, torch.zeros(1))] * 3, lr, mode)
        (gradient,) = torch.autograd.grad(end.sum(), x)
        assert torch.isfinite(gradient).all()
        assert end[2] == 3
