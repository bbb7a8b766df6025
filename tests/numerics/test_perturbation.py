import pytest
import torch

from raydd.numerics.flat import Slot
from raydd.numerics.perturbation import perturb
from raydd.numerics.rng import generator

# A convolution of three filters, its bias, a norm's weight, a linear layer of two outputs.
LAYOUT = (
    Slot("conv.weight", (3, 2, 2, 2), 0),
    Slot("conv.bias", (3,), 24),
    Slot("norm.weight", (3,), 27),
    Slot("linear.weight", (2, 5), 30),
)
FILTERS = [(0, 8), (8, 16), (16, 24), (30, 35), (35, 40)]


def weights(device="cpu", dtype=torch.float64):
    return torch.randn(40, generator=generator(0), dtype=torch.float64).to(device, dtype)


def test_every_filter_moves_by_rho_times_its_length(device):
    theta = weights(device)
    moved = perturb(LAYOUT, 0.1, theta, generator(1))
    for low, high in FILTERS:
        length = sum(value**2 for value in theta[low:high].tolist()) ** 0.5
        change = sum(value**2 for value in (moved - theta)[low:high].tolist()) ** 0.5
        assert change == pytest.approx(0.1 * length, rel=1e-12)
    assert torch.equal(moved[24:30], theta[24:30])
    assert (moved.shape, moved.dtype, moved.device.type) == (theta.shape, theta.dtype, device.type)


def test_it_is_equation_23_on_its_draws():
    theta, rng = weights(), generator(1)
    draws = {0: torch.randn(3, 8, generator=rng).double(), 30: torch.randn(2, 5, generator=rng).double()}
    expected = theta.tolist()
    for first, rows in draws.items():
        place = first
        for d in rows.tolist():
            old = expected[place : place + len(d)]
            length, norm = sum(v * v for v in old) ** 0.5, sum(v * v for v in d) ** 0.5
            expected[place : place + len(d)] = [v + 0.3 * e / norm * length for v, e in zip(old, d, strict=True)]
            place += len(d)
    assert perturb(LAYOUT, 0.3, theta, generator(1)).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_draws_are_those_of_the_generator_alone():
    theta = weights(dtype=torch.float32)
    torch.manual_seed(0)
    first = perturb(LAYOUT, 0.1, theta, generator(1))
    state = torch.get_rng_state()
    assert torch.equal(perturb(LAYOUT, 0.1, theta, generator(1)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(perturb(LAYOUT, 0.1, theta, generator(2)), first)
    torch.testing.assert_close(perturb(LAYOUT, 0.1, theta.double(), generator(1)), first.double(), rtol=1e-5, atol=1e-6)


def test_directions_are_normal():
    """Over many filters of ones the change has mean 0 and no direction is favoured."""
    layout = (Slot("weight", (4000, 4), 0),)
    change = perturb(layout, 1.0, torch.ones(16000), generator(3)).view(4000, 4) - 1
    assert change.mean(0).abs().max() < 0.06
    assert (change.square().mean(0) - 1).abs().max() < 0.06


def test_no_rho_changes_nothing_and_draws_nothing():
    theta, rng = weights(), generator(1)
    before = rng.get_state()
    assert perturb(LAYOUT, 0.0, theta, rng) is theta
    assert torch.equal(rng.get_state(), before)


def test_the_weights_given_stay_as_they_are_and_a_filter_of_zeros_stays():
    theta = weights()
    theta[8:16] = 0
    kept = theta.clone()
    moved = perturb(LAYOUT, 0.5, theta, generator(1))
    assert torch.equal(theta, kept)
    assert torch.equal(moved[8:16], torch.zeros(8, dtype=torch.float64))
    moved.zero_()
    assert torch.equal(theta, kept)


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"shape \(41,\), but the network has 40 parameters"):
        perturb(LAYOUT, 0.1, torch.zeros(41), generator(0))
