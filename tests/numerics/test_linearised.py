"""Products with a network's Jacobian, against the Jacobian itself; and conjugate gradients against a dense solution."""

import pytest
import torch
from torch.func import functional_call

from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel
from raydd.numerics.linearised import Linearised, body_mask, conjugate_gradients
from raydd.numerics.rng import generator

CLASSES = 3
RNG = generator(0, "test")
X = torch.randn(4, 1, 8, 8, generator=RNG, dtype=torch.float64)


def jacobian(model, theta, x):
    """By one gradient for every logit, with no graph of a gradient."""
    at = theta.clone().requires_grad_()
    logits = model(at, x).flatten()
    return torch.stack([torch.autograd.grad(logit, at, retain_graph=True)[0] for logit in logits])


@pytest.mark.parametrize("network", ["ConvNetW4", "ConvNetW4BNAS", "ConvNetW4NN", "MLP", "ResNet10W4"])
def test_products_are_those_of_the_jacobian(network):
    model = FlatModel(lambda: build(network, channels=1, size=8, classes=CLASSES))
    theta = model.init(generator(1)).double()
    mask = body_mask(model, model.features(theta, X).shape[1], CLASSES).double()
    here, dense = Linearised(model, theta, X, mask), jacobian(model, theta, X) * mask
    direction = torch.randn(model.size, generator=RNG, dtype=torch.float64)
    cotangent = torch.randn(len(X), CLASSES, generator=RNG, dtype=torch.float64)
    torch.testing.assert_close(here.change(direction).flatten(), dense @ direction, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(here.pull(cotangent), dense.T @ cotangent.flatten(), rtol=1e-9, atol=1e-10)
    slope, step = here.slope(direction, cotangent).flatten(), 1e-6
    for place in (0, 77, 140, 255):
        moved = torch.zeros(X.numel(), dtype=torch.float64).index_fill(0, torch.tensor(place), step).view_as(X)
        high, low = (
            cotangent.flatten() @ ((jacobian(model, theta, at) * mask) @ direction) for at in (X + moved, X - moved)
        )
        torch.testing.assert_close(slope[place], (high - low) / (2 * step), rtol=1e-4, atol=1e-5)


def test_the_body_is_all_but_the_last_matrix():
    model = FlatModel(lambda: build("ConvNetW4", channels=1, size=8, classes=CLASSES))
    network, mask = build("ConvNetW4", channels=1, size=8, classes=CLASSES), body_mask(model, 16, CLASSES)
    assert int((mask == 0).sum()) == network.classifier.weight.numel()
    moved = {name: value.detach().clone() for name, value in network.named_parameters()}
    parts = dict(zip(moved, mask.split([value.numel() for value in moved.values()]), strict=True))
    assert [name for name, part in parts.items() if not part.any()] == ["classifier.weight"]
    assert functional_call(network, moved, (X.float(),)).shape == (4, CLASSES)
    with pytest.raises(ValueError, match="no linear layer from its 17 features to 3 classes"):
        body_mask(model, 17, CLASSES)


def test_conjugate_gradients_come_to_the_dense_solution_in_as_many_steps_as_there_are_eigenvalues():
    factor = torch.randn(9, 3, generator=RNG, dtype=torch.float64)
    matrix = torch.eye(9, dtype=torch.float64) + factor @ factor.T
    target = torch.randn(9, generator=RNG, dtype=torch.float64)
    exact = torch.linalg.solve(matrix, target)
    errors = [float((conjugate_gradients(lambda v: matrix @ v, target, steps) - exact).norm()) for steps in range(5)]
    assert errors[0] == float(exact.norm())
    assert errors == sorted(errors, reverse=True)
    assert errors[4] < 1e-12 < errors[3]
    stays = conjugate_gradients(lambda v: matrix @ v, target, 100)
    torch.testing.assert_close(stays, exact)
    nothing = torch.zeros_like(target)
    assert torch.equal(conjugate_gradients(lambda v: matrix @ v, nothing, 3), nothing)
