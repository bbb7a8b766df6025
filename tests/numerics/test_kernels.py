"""Kernels and ridge regression against networks of many units, and against normal equations."""

import itertools

import pytest
import torch
from torch import nn

from raydd.numerics.kernels import linear, ridge, tangent
from raydd.numerics.rng import generator


def points(count, width=5, seed=0):
    return torch.randn(count, width, generator=generator(seed), dtype=torch.float64)


def wide_network(width, depth, rng):
    """The parametrisation whose tangent kernel does not grow with the width; ReLU's gain is the square root of 2."""
    sizes = [5, *[width] * depth, 1]
    return [torch.randn(b, a, generator=rng, dtype=torch.float64) for a, b in itertools.pairwise(sizes)]


def empirical(weights, x, y):
    """<d f(x) / d weights, d f(y) / d weights>, by autograd."""

    def gradients(point):
        leaves = [weight.clone().requires_grad_() for weight in weights]
        h = point
        for place, weight in enumerate(leaves):
            h = weight @ h / len(h) ** 0.5
            h = h if place == len(leaves) - 1 else 2**0.5 * torch.relu(h)
        return torch.cat([each.flatten() for each in torch.autograd.grad(h[0], leaves)])

    return torch.stack([torch.stack([gradients(a) @ gradients(b) for b in y]) for a in x])


@pytest.mark.parametrize("depth", [1, 2])
def test_the_tangent_kernel_is_that_of_a_wide_network(depth):
    """Kernels of networks with 600 units a layer, averaged over ten, come within some per cent of the limit."""
    x, y = points(2), points(3, seed=1)
    drawn = torch.stack([empirical(wide_network(600, depth, generator(2, seed)), x, y) for seed in range(10)])
    exact = tangent(x, y, depth)
    error = (drawn.mean(0) - exact).abs()
    assert (error < 4 * drawn.std(0) / 10**0.5 + 0.02 * exact.abs().max()).all()
    assert error.max() < 0.1 * exact.abs().max()


def test_the_tangent_kernel_is_symmetric_and_grows_with_the_square_of_the_inputs():
    x = points(6)
    kernel = tangent(x, x)
    torch.testing.assert_close(kernel, kernel.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(tangent(3 * x, x), 3 * kernel, rtol=1e-9, atol=1e-9)
    assert torch.linalg.eigvalsh(kernel).min() > 0
    diagonal = x.square().sum(1) / 5 * (3 + 1)  # of depth L it is L + 1 times the mean square
    torch.testing.assert_close(kernel.diagonal(), diagonal, rtol=1e-4, atol=0)


def test_gradients_of_the_tangent_kernel_are_right_and_finite_on_the_diagonal():
    x = points(3).requires_grad_()
    (gradient,) = torch.autograd.grad(tangent(x, x).sum(), x)
    assert torch.isfinite(gradient).all()
    y = points(2, seed=3)
    assert torch.autograd.gradcheck(lambda at: tangent(at, y), (points(3).requires_grad_(),))


def test_ridge_is_the_regression_of_the_normal_equations():
    """With a linear kernel it predicts what weights by the normal equations do."""
    train, test, labels = points(8), points(4, seed=1), points(8, 3, seed=2)
    part = 1e-3
    within = linear(train, train)
    penalty = part * float(within.diagonal().sum()) / 8
    weights = torch.linalg.inv(train.T @ train + penalty * torch.eye(5, dtype=torch.float64)) @ train.T @ labels
    torch.testing.assert_close(ridge(linear(test, train), within, labels, part), test @ weights, rtol=1e-8, atol=1e-10)


def test_without_noise_it_fits_the_set_itself():
    x, labels = points(4), nn.functional.one_hot(torch.arange(4)).double() - 0.25
    within = tangent(x, x)
    torch.testing.assert_close(ridge(within, within, labels, 1e-10), labels, rtol=0, atol=1e-6)
