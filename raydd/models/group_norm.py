r"""Group normalisation whose gradient can be differentiated at the price of a few more passes over the images.

PyTorch differentiates its gradient through some fifty operations, and computes it in another way, with other
rounding, where it is to be differentiated. Here both are one kernel, and the second derivative is written out.

With h = gamma dy, x' = (x - mean) r and means over a group's M numbers, the gradient of y = gamma x' + beta is

    dx = A(h) = r (h - mean(h) - x' mean(h x')),    dgamma = sum dy x',    dbeta = sum dy.

With cotangents u, v and w of dx, dgamma and dbeta, k = v dy, q = mean(u h) - mean(u) mean(h) - 3 mean(u x') mean(h x'):

    of dy: gamma A(u) + v x' + w,    of gamma: sum dy A(u),
    of x: A(k) - r^2 (x' q + mean(h x') (u - mean(u)) + mean(u x') (h - mean(h))).

Shapes: `B` batch, `C H W` image, `G` groups, `N` = C/G H W numbers a group.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return x (B, C, H, W) with mean 0 and variance 1 in each of ``groups`` groups of channels, scaled and shifted.

    Same values as `torch.nn.functional.group_norm`; weight and bias are (C,). It can be differentiated twice.

    >>> x = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    >>> group_norm(x, 1, torch.ones(1), torch.zeros(1), eps=0.0).flatten().tolist()
    [-1.0, 1.0]
    """
    apply = _Norm.apply if torch.is_grad_enabled() else _Norm.forward
    normalised: Tensor = apply(x.contiguous(), weight, bias, groups, eps)[0]
    return normalised


class _Norm(torch.autograd.Function):
    """The normalisation, by PyTorch's kernel."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, ...]:
        batch, channels, *rest = x.shape
        area = torch.Size(rest).numel()
        parts: tuple[Tensor, ...] = torch.native_group_norm(x, weight, bias, batch, channels, area, groups, eps)
        return parts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, ctx.groups, _ = inputs
        _, mean, scale = output
        ctx.mark_non_differentiable(mean, scale)
        ctx.set_materialize_grads(False)  # no zeros for what has none
        ctx.save_for_backward(x, weight, mean, scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *constant: None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 5
        options = ctx.groups, list(ctx.needs_input_grad[:3])
        apply = _Gradient.apply if torch.is_grad_enabled() else _Gradient.forward
        x, weight, mean, scale = ctx.saved_tensors
        return (*apply(dy.contiguous(), x, weight, mean, scale, options), None, None)


class _Gradient(torch.autograd.Function):
    """The gradient, by PyTorch's kernel, and its own gradient as written above."""

    @staticmethod
    def forward(
        dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, options: tuple[int, list[bool]]
    ) -> tuple[Tensor | None, ...]:
        groups, wanted = options
        batch, channels, *rest = x.shape
        sizes = batch, channels, torch.Size(rest).numel(), groups
        gradients: tuple[Tensor | None, ...] = torch.ops.aten.native_group_norm_backward(
            dy, x, mean, scale, weight, *sizes, wanted
        )
        return gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        *tensors, (ctx.groups, _) = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, w: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, x, weight, mean, scale = ctx.saved_tensors
        batch, channels = x.shape[:2]
        members = channels // ctx.groups
        numbers = members * x[0, 0].numel()

        def rows(tensor: Tensor) -> Tensor:
            return tensor.reshape(batch, channels, -1)

        def each(value: Tensor) -> Tensor:  # a group's value at each of its channels, (B, C)
            return value[..., None].expand(-1, -1, members).reshape(batch, channels)

        def mean_of(value: Tensor) -> Tensor:  # over a group's numbers, at each of its channels, from channels' sums
            return each(value.view(batch, ctx.groups, members).sum(2) / numbers)

        r, gamma = each(scale.view(batch, ctx.groups)), weight.view(1, -1)
        normal = (rows(x) - each(mean.view(batch, ctx.groups))[..., None]).mul_(r[..., None])
        slope, cotangent = rows(dy), torch.zeros_like(normal) if u is None else rows(u)
        v, w = (torch.zeros_like(weight) if value is None else value for value in (v, w))
        sums = cotangent.sum(2), slope.sum(2), _dot(cotangent, normal), _dot(slope, normal), _dot(cotangent, slope)
        of_u, of_dy, of_ux, of_dyx, of_udy = sums
        u1, ux = mean_of(of_u), mean_of(of_ux)
        h1, hx, uh = (mean_of(gamma * value) for value in (of_dy, of_dyx, of_udy))
        k1, kx = mean_of(v * of_dy), mean_of(v * of_dyx)
        q = uh - u1 * h1 - 3 * ux * hx
        to_dy = _combined((gamma * r, cotangent), (v - gamma * r * ux, normal), w - gamma * r * u1)
        to_x = _combined(
            (r * v - r**2 * ux * gamma, slope),
            (-(r**2) * hx, cotangent),
            (-r * kx - r**2 * q, normal),
            r**2 * (hx * u1 + ux * h1) - r * k1,
        )
        to_weight = (r * (of_udy - u1 * of_dy - ux * of_dyx)).sum(0)
        return to_dy.view_as(dy), to_x.view_as(x), to_weight, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sums (B, C) of products over the last dimension of two tensors (B, C, N)."""
    return (a * b).sum(2)


def _combined(first: tuple[Tensor, Tensor], *others: Any) -> Tensor:
    """Return factor (B, C) times tensor (B, C, N), summed over the pairs, plus the last factor."""
    *pairs, shift = others
    total = first[0][..., None] * first[1]
    for factor, tensor in pairs:
        total.addcmul_(factor[..., None], tensor)
    return total.add_(shift[..., None])
