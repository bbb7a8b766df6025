import math

import pytest
import torch

from raydd.numerics.rng import generator
from raydd.numerics.sharpness import perturbation, surrogate

SHAPES = [(3, 2), (4,), (2, 1, 2)]


def tensors(seed, device):
    rng = generator(seed)
    return [torch.randn(shape, generator=rng, dtype=torch.float64).to(device) for shape in SHAPES]


def numbers(values):
    return [number for value in values for number in value.flatten().tolist()]


def test_a_step_on_a_quadratic_worked_by_hand(device):
    """f = (3 p_1^2 + p_2^2) / 2 at p = (1, 2), with rho = alpha = 1/2; each parameter in a tensor of its own."""
    curvature = [torch.tensor([value], dtype=torch.float64, device=device) for value in (3.0, 1.0)]
    p = [torch.tensor([value], dtype=torch.float64, device=device) for value in (1.0, 2.0)]
    clean = [c * q for c, q in zip(curvature, p, strict=True)]  # (3, 2): |p| g = (3, 4), of norm 5
    moves = perturbation(p, clean, 0.5)
    assert numbers(moves) == pytest.approx([0.3, 0.8], rel=1e-14)
    adversarial = [c * (q + e) for c, q, e in zip(curvature, p, moves, strict=True)]  # (3.9, 2.8)
    # <g, g_adv> = 17.3 and |g_adv|^2 = 23.05, so that g_perp = (1.68, -2.34) / 23.05
    expected = [3.9 - 0.5 * 1.68 / 23.05, 2.8 + 0.5 * 2.34 / 23.05]
    assert numbers(surrogate(clean, adversarial, 0.5)) == pytest.approx(expected, rel=1e-14)


def test_the_perturbation_is_the_adaptive_one(device):
    p, g = tensors(0, device), tensors(1, device)
    norm = math.sqrt(sum((abs(a) * b) ** 2 for a, b in zip(numbers(p), numbers(g), strict=True)))
    expected = [a * a * b * 0.03 / norm for a, b in zip(numbers(p), numbers(g), strict=True)]
    moves = perturbation(p, g, 0.03)
    assert numbers(moves) == pytest.approx(expected, rel=1e-12)
    assert [(tuple(e.shape), e.dtype, e.device.type) for e in moves] == [
        (shape, torch.float64, device.type) for shape in SHAPES
    ]


def test_the_surrogate_leaves_out_what_is_orthogonal(device):
    g, adversarial = tensors(2, device), tensors(3, device)
    a, b = numbers(g), numbers(adversarial)
    part = sum(x * y for x, y in zip(a, b, strict=True)) / sum(y * y for y in b)
    orthogonal = [x - part * y for x, y in zip(a, b, strict=True)]
    assert sum(x * y for x, y in zip(orthogonal, b, strict=True)) == pytest.approx(0, abs=1e-12)
    expected = [y - 0.3 * x for x, y in zip(orthogonal, b, strict=True)]
    assert numbers(surrogate(g, adversarial, 0.3)) == pytest.approx(expected, rel=1e-12)


def test_alpha_zero_and_parallel_gradients_give_the_adversarial_one(device):
    g, adversarial = tensors(4, device), tensors(5, device)
    assert numbers(surrogate(g, adversarial, 0.0)) == numbers(adversarial)
    parallel = [-2.5 * a for a in adversarial]
    assert numbers(surrogate(parallel, adversarial, 1.0)) == pytest.approx(numbers(adversarial), rel=1e-12)


def test_no_gradient_gives_no_step():
    p, zero = tensors(6, "cpu"), [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    assert numbers(perturbation(p, zero, 0.5)) == [0.0] * 14
    assert numbers(surrogate(zero, zero, 0.3)) == [0.0] * 14
    assert numbers(perturbation(zero, p, 0.5)) == [0.0] * 14
    assert numbers(surrogate(p, zero, 0.5)) == [-0.5 * value for value in numbers(p)]


def test_gradients_too_small_for_their_squares_give_no_nan():
    tiny = [torch.full((2,), 1e-30)]
    assert numbers(perturbation([torch.ones(2)], tiny, 0.5)) == [0.0, 0.0]
    assert all(map(math.isfinite, numbers(surrogate(tiny, tiny, 0.5))))
