"""Average pooling has the bits of PyTorch's, and derivatives of every order."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from raydd.models import average_pool as module
from raydd.models.average_pool import AvgPool2d, average_pool

LARGE = (4, 16, 32, 32)


def images(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype).requires_grad_()


def derivatives(pool, x):
    """Values, gradient and second derivative of a function of the means."""
    pooled = pool(x)
    (first,) = torch.autograd.grad(pooled.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.exp().sum(), x)
    return pooled, first, second


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [LARGE, (2, 3, 64, 256), (3, 64, 2, 256), (5, 9, 33, 64), (1, 2, 4, 4)])
def test_bits_and_derivatives_are_those_of_pytorch(shape, dtype):
    x = images(*shape, dtype=dtype)
    ours, theirs = (derivatives(pool, x) for pool in (average_pool, lambda x: avg_pool2d(x, 2)))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_images_in_any_memory_format_give_the_same():
    x = images(*LARGE).detach().to(memory_format=torch.channels_last).requires_grad_()
    ours, theirs = derivatives(average_pool, x), derivatives(average_pool, x.detach().contiguous().requires_grad_())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_both_derivatives_are_those_of_the_function(monkeypatch):
    monkeypatch.setattr(module, "FEWEST", 0)
    x = images(2, 2, 4, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(average_pool, x)
    assert torch.autograd.gradgradcheck(average_pool, x)


def test_large_images_do_without_pytorchs_kernel_and_others_do_not(monkeypatch):
    monkeypatch.setattr(module, "avg_pool2d", lambda x, side: None)
    pool, large = AvgPool2d(), images(*LARGE)
    assert pool(large) is not None
    with torch.no_grad():
        assert pool(large) is not None
    odd = images(4, 16, 33, 32)
    for other in (large[:1], odd, large.bfloat16(), large.to("meta")):
        assert pool(other) is None
