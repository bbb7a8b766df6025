from types import SimpleNamespace

import pytest
import torch

from raydd.numerics.distances import normalized_mse
from raydd.numerics.rng import generator


def vectors(count, device):
    return torch.randn(count, 7, generator=generator(0), dtype=torch.float64).to(device)


def test_normalized_mse_is_equation_2(device):
    start, target, middle, end = vectors(4, device)
    path = (start, middle, end)
    value = normalized_mse(path, SimpleNamespace(start=start, target=target))
    above = sum((float(end[i]) - float(target[i])) ** 2 for i in range(7))
    below = sum((float(start[i]) - float(target[i])) ** 2 for i in range(7))
    assert value.item() == pytest.approx(above / below, rel=1e-12)
    assert (value.shape, value.dtype, value.device.type) == ((), torch.float64, device.type)


def test_gradient_is_twice_the_gap_over_the_experts_way(device):
    start, target, end = vectors(3, device)
    end.requires_grad_()
    (gradient,) = torch.autograd.grad(normalized_mse((end,), SimpleNamespace(start=start, target=target)), end)
    below = sum((float(start[i]) - float(target[i])) ** 2 for i in range(7))
    expected = [2 * (end[i].item() - target[i].item()) / below for i in range(7)]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-12)


def test_one_at_the_start_and_zero_at_the_target():
    start, target = vectors(2, "cpu")
    ends = SimpleNamespace(start=start, target=target)
    assert normalized_mse((start,), ends).item() == 1
    assert normalized_mse((start, target), ends).item() == 0


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_an_expert_that_stands_still_is_refused(value):
    point = torch.full((3,), value)
    with pytest.raises(ValueError, match=r"^the expert stands still between start and target; .* larger lr$"):
        normalized_mse((point,), SimpleNamespace(start=point, target=point))
