"""Group norm's gradients of first and second order against PyTorch's."""

import pytest
import torch
from torch.nn import functional

from raydd.models.classifier import GroupNorm
from raydd.models.group_norm import group_norm

SHAPES = [(3, 4, 4, (4, 5)), (2, 6, 2, (3, 3)), (2, 3, 1, (4, 4)), (1, 5, 5, (1, 2)), (2, 4, 2, (7,))]


def arguments(batch, channels, rest, dtype=torch.float64):
    rng = torch.Generator().manual_seed(batch + channels)
    shapes = (batch, channels, *rest), (channels,), (channels,)
    return [torch.randn(shape, generator=rng, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("batch", "channels", "groups", "rest"), SHAPES)
def test_both_derivatives_are_those_of_the_function(batch, channels, groups, rest):
    inputs = arguments(batch, channels, rest)

    def norm(x, weight, bias):
        return group_norm(x, groups, weight, bias, 1e-3)

    assert torch.equal(norm(*inputs), functional.group_norm(inputs[0], groups, *inputs[1:], 1e-3))
    assert torch.autograd.gradcheck(norm, inputs)
    assert torch.autograd.gradgradcheck(norm, inputs)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_any_of_the_gradients_can_be_differentiated_alone(wanted):
    inputs = arguments(2, 4, (3, 3))

    def second(norm):
        loss = norm(inputs[0], 2, *inputs[1:]).exp().sum()
        firsts = torch.autograd.grad(loss, [inputs[place] for place in wanted], create_graph=True)
        return torch.autograd.grad(sum(first.square().sum() for first in firsts), inputs)

    for ours, theirs in zip(second(group_norm), second(functional.group_norm), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradient_has_the_same_bits_whether_it_will_be_differentiated_or_not():
    inputs = arguments(8, 16, (9, 9), torch.float32)
    norm = GroupNorm(4, 16)
    cotangent = torch.randn(8, 16, 9, 9, generator=torch.Generator().manual_seed(1))
    leaves = [inputs[0], norm.weight, norm.bias]
    plain = torch.autograd.grad((norm(inputs[0]) * cotangent).sum(), leaves)
    graph = torch.autograd.grad((norm(inputs[0]) * cotangent).sum(), leaves, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, graph, strict=True))
    theirs = functional.group_norm(inputs[0], 4, norm.weight, norm.bias)
    assert all(
        torch.equal(a, b) for a, b in zip(plain, torch.autograd.grad((theirs * cotangent).sum(), leaves), strict=True)
    )


def test_images_in_any_memory_format_give_the_same():
    inputs = arguments(2, 4, (3, 5))
    channels_last = inputs[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    for x in (inputs[0], channels_last):
        y = group_norm(x, 2, *inputs[1:])
        (first,) = torch.autograd.grad(y.exp().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        if x is inputs[0]:
            expected = y, first, second
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip((y, first, second), expected, strict=True))
