import math

import pytest
import torch
from torch import nn

from raydd.numerics.losses import balance, clip_weight, cross_entropy, gradient_penalty
from raydd.numerics.rng import generator


def logits(device, scale=3.0):
    return (scale * torch.randn(5, 4, generator=generator(0), dtype=torch.float64)).to(device)


def naive(rows, probabilities):
    """The mean over rows of -sum_k q_k log(e^z_k / sum_j e^z_j)."""
    total = 0.0
    for z, q in zip(rows.tolist(), probabilities, strict=True):
        partition = sum(math.exp(value) for value in z)
        total -= sum(q[k] * math.log(math.exp(z[k]) / partition) for k in range(len(z)))
    return total / len(rows)


def test_hard_labels(device):
    z, labels = logits(device), [3, 0, 1, 1, 2]
    one_hot = [[float(k == label) for k in range(4)] for label in labels]
    value = cross_entropy(z, torch.tensor(labels, device=device))
    assert value.item() == pytest.approx(naive(z, one_hot), rel=1e-12)
    assert (value.shape, value.dtype) == ((), torch.float64)


def test_soft_labels_and_their_gradients(device):
    z = logits(device).requires_grad_()
    q = torch.rand(5, 4, generator=generator(1), dtype=torch.float64).to(device)
    q = (q / q.sum(1, keepdim=True)).requires_grad_()
    value = cross_entropy(z, q)
    assert value.item() == pytest.approx(naive(z, q.tolist()), rel=1e-12)
    by_z, by_q = torch.autograd.grad(value, [z, q])
    p = z.detach().exp() / z.detach().exp().sum(1, keepdim=True)
    torch.testing.assert_close(by_z, (p - q.detach()) / 5, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(by_q, -p.log() / 5, rtol=1e-10, atol=1e-14)


def test_soft_labels_need_not_sum_to_one():
    q = torch.tensor([[0.5, 2.0, 0.0, 0.25]] * 5, dtype=torch.float64)
    assert cross_entropy(logits("cpu"), q).item() == pytest.approx(naive(logits("cpu"), q.tolist()), rel=1e-12)


def test_large_logits_do_not_overflow():
    z = torch.tensor([[1000.0, 0.0]], dtype=torch.float64)
    assert cross_entropy(z, torch.tensor([1])).item() == 1000
    assert cross_entropy(z, torch.tensor([[0.25, 0.75]], dtype=torch.float64)).item() == 750


@pytest.mark.rows(
    ("settings", "expected"),
    [
        ((0.5, 1.0, 5), [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]),
        ((0.5, 0.75, 3), [0.5, 0.625, 0.75, 1.0, 1.0, 1.0]),
        ((0.25, 0.75, 2), [0.25, 0.75, 1.0, 1.0, 1.0, 1.0]),
        ((0.5, 0.75, 1), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ((0.5, 0.75, 0), [1.0] * 6),
    ],
)
def test_the_weight_rises_linearly_and_then_stays_at_one(settings, expected):
    assert [clip_weight(epoch, *settings) for epoch in range(1, 7)] == expected


def test_the_weight_is_exact_at_both_ends():
    assert (clip_weight(1, 0.1, 0.95, 10), clip_weight(10, 0.1, 0.95, 10)) == (0.1, 0.95)


@pytest.mark.parametrize(("norm", "expected"), [(0.0, 169.0), (1.0, 144.0), (13.0, 0.0), (14.0, 1.0)])
def test_the_penalty_of_a_linear_network_is_of_its_summed_weights(norm, expected, device):
    weights = torch.tensor([[1.0, 0.0, 3.0], [2.0, 4.0, 9.0]], dtype=torch.float64, device=device)  # sums: 3, 4, 12
    x = torch.randn(5, 3, 1, 1, generator=generator(0), dtype=torch.float64).to(device).requires_grad_()
    penalty = gradient_penalty(x.flatten(1) @ weights.T, x, norm)
    assert penalty.item() == pytest.approx(expected, rel=1e-14)
    assert (penalty.shape, penalty.dtype, penalty.device.type) == ((), torch.float64, device.type)


def convnet():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 9, 4)
    return nn.Sequential(*layers).double()


def test_the_penalty_and_its_gradients_are_the_mean_over_single_images(device):
    network = convnet().to(device)
    x = torch.randn(6, 2, 5, 5, generator=generator(1), dtype=torch.float64).to(device).requires_grad_()
    penalty, expected = gradient_penalty(network(x), x, 0.5), 0.0
    for image in x.detach():
        image = image[None].requires_grad_()
        total = sum(network(image)[0, k] for k in range(4))
        (slope,) = torch.autograd.grad(total, image, create_graph=True)
        expected = expected + (sum(value**2 for value in slope.flatten()) ** 0.5 - 0.5) ** 2 / 6
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    assert expected.item() > 1e-3
    weights = [p for name, p in network.named_parameters() if "bias" not in name]
    ours, theirs = torch.autograd.grad(penalty, weights), torch.autograd.grad(expected, weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert b.abs().max() > 1e-4


def test_images_that_change_nothing_cost_the_squared_norm_and_have_finite_gradients():
    weights = torch.zeros(4, 3, requires_grad=True)
    x = torch.ones(2, 3, 1, 1, requires_grad=True)
    penalty = gradient_penalty(x.flatten(1) @ weights.T, x, 2.0)
    (gradient,) = torch.autograd.grad(penalty, weights)
    assert penalty.item() == 4
    assert gradient.isfinite().all()


def test_images_without_gradients_are_refused():
    x = torch.ones(2, 3, 1, 1)
    with pytest.raises(ValueError, match=r"^gradient_penalty needs images .*; call x\.requires_grad_\(\) first$"):
        gradient_penalty(x.flatten(1), x, 1.0)


@pytest.mark.rows(
    ("start", "middle", "expected"),
    [
        (12, 10, math.log(10)),
        (8, 10, 1 / math.log(10)),
        (10, 10, math.log(8)),
        (10.5, 12.5, 1 / math.log(10)),
        (0, 20, 1 / math.log(28)),
        (40, 20, math.log(28)),
    ],
)
def test_balance_is_equation_20(start, middle, expected):
    assert balance(start, middle) == pytest.approx(expected, rel=1e-15)


def test_balance_takes_its_offset():
    assert balance(5, 3, offset=math.e - 2) == pytest.approx(1, rel=1e-15)
    assert balance(3, 5, offset=math.e**2 - 2) == pytest.approx(0.5, rel=1e-15)
