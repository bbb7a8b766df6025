"""Adam: as the optimiser of what is distilled, and as a student's, whose path can be differentiated.

Shapes: `P` parameters, `S` student steps.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raydd.numerics.unroll import Backprop, Batch, Inner, Plan, StudentSteps, WholeBatches, kept_bytes, plan_of

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """Adam of one parameter with decoupled weight decay: to the bit what `torch.optim.AdamW` does; 0 is Adam.

    With a ``scale``, which broadcasts, ``parameter / scale`` is what it learns.

    >>> x = torch.ones(1, requires_grad=True)
    >>> x.grad = torch.full((1,), 2.0)
    >>> Adam(x, lr=0.5).step()
    >>> x.detach()
    tensor([0.5000])
    """

    def __init__(self, parameter: Tensor, lr: float, weight_decay: float = 0.0, scale: Tensor | None = None) -> None:
        self._parameter, self.lr, self._decay = parameter, lr, weight_decay
        self._scale = None if scale is None else scale.to(parameter)
        self.first: Tensor | None = None
        self.second: Tensor | None = None
        self.count = 0

    @torch.no_grad()
    def step(self) -> None:
        """Step the parameter along its gradient."""
        theta, gradient = self._parameter, self._parameter.grad
        if gradient is None:
            return
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(theta), torch.zeros_like(theta)
        self.count += 1
        if self._scale is not None:
            gradient = gradient * self._scale
        if self._decay:
            theta.mul_(1 - self.lr * self._decay)
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = (self.second.sqrt() / math.sqrt(1 - BETAS[1] ** self.count)).add_(EPSILON)
        first = self.first if self._scale is None else self.first * self._scale
        theta.addcdiv_(first, root, value=-self.lr / (1 - BETAS[0] ** self.count))


class Moments(NamedTuple):
    """A student between two steps of Adam: its weights, and the means of gradients and of their squares, (P,) each."""

    theta: Tensor
    first: Tensor
    second: Tensor
    steps: int = 0


def begin(theta: Tensor) -> Moments:
    """Return a student that has taken no step."""
    return Moments(theta, torch.zeros_like(theta), torch.zeros_like(theta))


def adam_step(at: Moments, gradient: Tensor, lr: Tensor) -> Moments:
    """Return the student after a step along a gradient (P,); differentiable in all of it.

    Where the second moment is 0 so is the first, and the step; its derivative there is taken as 0.
    """
    count = at.steps + 1
    first = BETAS[0] * at.first + (1 - BETAS[0]) * gradient
    second = BETAS[1] * at.second + (1 - BETAS[1]) * gradient.square()
    positive = second > 0
    root = torch.where(positive, second, 1).sqrt() * positive / math.sqrt(1 - BETAS[1] ** count)
    return Moments(at.theta - lr * (first / (1 - BETAS[0] ** count)) / (root + EPSILON), first, second, count)


def unroll_adam(
    inner: Inner,
    start: Moments,
    batches: Sequence[Batch],
    lr: Tensor,
    backprop: Backprop = "adjoint",
    memory: float | None = None,
) -> Tensor:
    r"""Train a student by Adam from ``start``, and return its weights (P,) in the end.

    Args:
        inner: The student's loss.
        start: The student before; a constant.
        batches: S batches; x and y may require gradients.
        lr: Learning rate, a scalar tensor; may require a gradient.
        backprop: How gradients to x, y and lr are computed, as of `raydd.numerics.unroll.unroll`. ``adjoint`` stores
            four vectors a step and sweeps backwards: with the cotangents of theta, of both moments and of lr, a step's
            elementwise part gives the cotangent h of its gradient, and ds/dx, ds/dy and ds/dtheta of s = <g, h> the
            rest, a Hessian-vector product. ``truncated`` leaves ds/dtheta out.
        memory: Bytes for the graphs of the last steps, which the way back need not compute again.

    Reference: Feng et al., arXiv 2311.07025 (RaT-BPTT), whose students are trained by Adam; Kingma & Ba, arXiv
        1412.6980.
    """
    batches = [Batch(*batch) for batch in batches]
    if backprop == "full":
        return _full(inner, start, batches, lr)
    plan, tensors = plan_of(batches)
    steps = WholeBatches(inner, len(batches), kept_bytes(memory, start.theta) if torch.is_grad_enabled() else 0)
    end: Tensor = _AdamSweep.apply(steps, plan, backprop == "adjoint", start, lr, *tensors)
    return end


def _full(inner: Inner, start: Moments, batches: Sequence[Batch], lr: Tensor) -> Tensor:
    at = start._replace(theta=start.theta.detach().requires_grad_())
    for x, y, view in batches:
        loss = inner(at.theta, view(x), y)
        (gradient,) = torch.autograd.grad(loss, at.theta, create_graph=True)
        at = adam_step(at, gradient, lr)
    return at.theta


class _AdamSweep(torch.autograd.Function):
    """The end of the path with a backward that recomputes one step at a time."""

    @staticmethod
    def forward(
        ctx: Any, steps: StudentSteps, plan: Plan, second_order: bool, start: Moments, lr: Tensor, *tensors: Tensor
    ) -> Tensor:
        at, stored, wanted = start, list[Tensor](), ctx.needs_input_grad[5:]
        for step, (x_place, y_place, view) in enumerate(plan):
            x, y = (tensors[place].detach().requires_grad_(wanted[place]) for place in (x_place, y_place))
            gradient = steps.gradient(step, at.theta, Batch(x, y, view))
            stored += [*at[:3], gradient]
            at = adam_step(at, gradient, lr)
        ctx.student, ctx.plan, ctx.second_order, ctx.first = steps, plan, second_order, start.steps
        ctx.save_for_backward(lr, *stored, *tensors)
        return at.theta.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Any, ...]:
        steps = len(ctx.plan)
        lr, stored, tensors = (
            ctx.saved_tensors[0],
            ctx.saved_tensors[1 : 4 * steps + 1],
            ctx.saved_tensors[4 * steps + 1 :],
        )
        wanted = ctx.needs_input_grad[5:]
        gradients: list[Tensor | None] = [None] * len(tensors)
        lr_gradient, moments = torch.zeros_like(lr), (torch.zeros_like(adjoint), torch.zeros_like(adjoint))
        for step in reversed(range(steps)):
            theta, first, second, gradient = stored[4 * step : 4 * step + 4]
            at = Moments(theta, first, second, ctx.first + step)
            of_gradient, moments, of_lr = _through_step(at, gradient, lr, adjoint, moments)
            *pair, view = ctx.plan[step]
            x, y = (tensors[place].detach().requires_grad_(wanted[place]) for place in pair)
            slopes = ctx.student.slopes(step, theta, Batch(x, y, view), of_gradient, ctx.second_order)
            lr_gradient = lr_gradient + of_lr
            for place, value in zip(pair, (slopes.x, slopes.y), strict=True):
                if value is not None:
                    total = gradients[place]
                    gradients[place] = value.clone() if total is None else total.add_(value)
            if slopes.theta is not None:
                adjoint = adjoint + slopes.theta
        return (None, None, None, None, lr_gradient, *gradients)


def _through_step(
    at: Moments, gradient: Tensor, lr: Tensor, adjoint: Tensor, moments: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Return the cotangents of a step's gradient, of the moments before it, and of the learning rate."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (gradient, at.first, at.second, lr)]
        after = adam_step(Moments(at.theta, leaves[1], leaves[2], at.steps), leaves[0], leaves[3])
        of_gradient, first, second, of_lr = torch.autograd.grad(after[:3], leaves, (adjoint, *moments))
    return of_gradient, (first, second), of_lr
