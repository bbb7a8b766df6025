import math

import pytest
import torch

from raydd.numerics.losses import cross_entropy
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
