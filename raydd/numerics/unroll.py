"""The student's path: S steps of SGD on synthetic batches, and its gradient.

Shapes: `P` parameters, `B` batch, `S` student steps, `C H W` image, `K` classes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raydd.io.memory import system_memory
from raydd.numerics.augment import View, identity

Inner = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The student's loss: (theta (P,), x (B, C, H, W), y (B,) or (B, K)) -> scalar."""

Backprop = Literal["full", "adjoint", "truncated"]
Path = tuple[Tensor, ...]
Plan = list[tuple[int, int, View]]


class Batch(NamedTuple):
    """The input of one student step.

    Attributes:
        x: Images (B, C, H, W), before augmentation.
        y: Labels (B,) as classes or (B, K) as soft labels.
        view: The step's augmentation, drawn beforehand and replayed wherever the step is computed again.
    """

    x: Tensor
    y: Tensor
    view: View = identity


class Slopes(NamedTuple):
    """The slope s = <g, lambda> of a student step with gradient g, and its derivatives; None where none is wanted."""

    value: Tensor
    theta: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None


class StudentSteps(Protocol):
    """Computes a student's steps: on whole batches, or in parts elsewhere."""

    def gradient(self, step: int, theta: Tensor, batch: Batch) -> Tensor:
        """Return the gradient (P,) of the student's loss at theta_i, i = ``step``."""

    def slopes(self, step: int, theta: Tensor, batch: Batch, adjoint: Tensor, second_order: bool) -> Slopes:
        """Return the slopes of step i for lambda = ``adjoint`` (P,): by x and y where they require gradients.

        ``second_order`` asks for the one by theta_i, a Hessian-vector product.
        """


class _Graph(NamedTuple):
    """A student step's gradient (P,) with its graph, and the leaves theta, x and y that it depends on."""

    gradient: Tensor
    leaves: Batch
    theta: Tensor


class WholeBatches:
    """Student steps on whole batches of the loss ``inner``.

    Args:
        inner: The student's loss.
        steps: How many steps the path has.
        memory: Bytes that the graphs of the last steps may take from the way forward to the way back; the other steps
            are computed again, by the same operations.
    """

    def __init__(self, inner: Inner, steps: int = 0, memory: float = 0) -> None:
        self._inner, self._steps, self._memory = inner, steps, memory
        self._first_kept = steps
        self._kept: dict[int, _Graph] = {}

    def gradient(self, step: int, theta: Tensor, batch: Batch) -> Tensor:
        """Return the gradient (P,) of the student's loss at theta (P,)."""
        if self._memory and not step:
            with saved_bytes() as saved:
                graph = self._graph(theta, batch)
            self._first_kept = self._steps - int(min(self._steps, self._memory / max(1, saved())))
        else:
            graph = self._graph(theta, batch)
        if step >= self._first_kept:
            self._kept[step] = graph
        return graph.gradient.detach()

    def slopes(self, step: int, theta: Tensor, batch: Batch, adjoint: Tensor, second_order: bool) -> Slopes:
        """Return s = <g, lambda> and its derivatives."""
        gradient, leaves, point = self._kept.pop(step) if step in self._kept else self._graph(theta, batch)
        wanted = {"theta": point} if second_order else {}
        wanted |= {name: leaf for name, leaf in (("x", leaves.x), ("y", leaves.y)) if leaf.requires_grad}
        derivatives: dict[str, Tensor | None] = {}
        with torch.enable_grad():
            slope = torch.dot(gradient, adjoint)
        if slope.requires_grad and wanted:  # not where the loss is linear in theta and in what is wanted
            values = torch.autograd.grad(slope, list(wanted.values()), allow_unused=True)
            derivatives = dict(zip(wanted, values, strict=True))
        return Slopes(slope.detach(), **derivatives)

    def _graph(self, theta: Tensor, batch: Batch) -> _Graph:
        """Return the gradient with its graph. Without one, some layers' gradients are rounded in another way."""
        point = theta.detach().requires_grad_()
        x, y = (tensor.detach().requires_grad_(tensor.requires_grad) for tensor in (batch.x, batch.y))
        with torch.enable_grad():
            loss = self._inner(point, batch.view(x), y)
            (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
        return _Graph(gradient, Batch(x, y), point)


@contextmanager
def saved_bytes() -> Iterator[Callable[[], int]]:
    """Yield what returns the bytes that graphs built in this context have saved, each storage counted once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a layer that saves its own output would hold itself, and never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(sizes.values())


def unroll(
    inner: Inner,
    theta: Tensor,
    batches: Sequence[Batch],
    lr: Tensor,
    backprop: Backprop = "full",
    steps: StudentSteps | None = None,
    memory: float | None = None,
) -> Path:
    r"""Train a student by SGD: theta_{i+1} = theta_i - lr * grad_theta inner(theta_i, view_i(x_i), y_i).

    Args:
        inner: The student's loss.
        theta: theta_0 (P,).
        batches: S batches; x and y may require gradients.
        lr: The student's learning rate, a scalar tensor; may require a gradient.
        backprop: How gradients to x, y, lr (and theta) are computed.
            ``full``: exact; autograd through the whole path, whose graph grows with S.
            ``adjoint``: exact; stores the path, the batches and the graphs that fit ``memory``, and sweeps backwards
            with one Hessian-vector product a step. With lambda the cotangent of theta_{i+1} and s = <g_i, lambda>:
            dx_i = -lr ds/dx, dy_i = -lr ds/dy, dlr -= s and lambda <- lambda - lr ds/dtheta + the cotangent of theta_i
            itself.
            ``truncated``: **not** the gradient of the path: every theta_i is a constant when step i is
            differentiated, so that lambda does not change (TESLA's approximation).
        steps: What computes the steps, for ``adjoint`` and ``truncated``; by default each is computed here, as a whole.
        memory: Bytes for the graphs of the last steps, which the way back then need not compute again; 0 keeps none.
            None takes half of what the machine or the GPU has free for a process with this many threads. The result
            does not depend on it. ``full`` keeps all graphs, and ``steps`` have their own memory.

    Returns:
        theta_0, ..., theta_S, each (P,), as S + 1 vectors: a distance that reads the last one pays for one cotangent.

    Raises:
        ValueError: ``backprop`` is unknown.

    Reference: Cazenavette et al., arXiv 2203.11932, Algorithm 1 (the path); Cui et al., arXiv 2211.10586, section 3.2
        (``truncated``).
    Differs: TESLA's published code halves the gradient to the pixels; ``truncated`` does not.

    >>> x, lr = torch.tensor([[2.0]], requires_grad=True), torch.tensor(0.1)
    >>> square = lambda theta, x, y: ((theta * x - y) ** 2).sum()
    >>> ends = [unroll(square, torch.ones(1), [Batch(x, torch.zeros(1))] * 3, lr, mode)[-1]
    ...         for mode in ("full", "adjoint")]
    >>> [round(torch.autograd.grad(end.sum(), x)[0].item(), 6) for end in ends]
    [-0.096, -0.096]
    """
    batches = [Batch(*batch) for batch in batches]
    if backprop == "full":
        return _full(inner, theta, batches, lr)
    if backprop not in ("adjoint", "truncated"):
        raise ValueError(f"backprop {backprop!r} is unknown; use full, adjoint or truncated")
    plan, tensors = plan_of(batches)
    if steps is None:
        steps = WholeBatches(inner, len(batches), kept_bytes(memory, theta) if torch.is_grad_enabled() else 0)
    path: Path = _Sweep.apply(steps, plan, backprop == "adjoint", theta, lr, *tensors)
    return path


def plan_of(batches: Sequence[Batch]) -> tuple[Plan, list[Tensor]]:
    """Return the batches' tensors, each once, and for each step the places of its images and labels among them."""
    tensors = list({id(tensor): tensor for batch in batches for tensor in (batch.x, batch.y)}.values())
    places = {id(tensor): place for place, tensor in enumerate(tensors)}
    return [(places[id(batch.x)], places[id(batch.y)], batch.view) for batch in batches], tensors


def kept_bytes(memory: float | None, theta: Tensor) -> float:
    """Return the bytes for kept graphs; None is half of what is free, shared by as many processes as have threads."""
    if memory is not None:
        return memory
    if theta.is_cuda:
        return torch.cuda.mem_get_info(theta.device)[0] / 2
    return system_memory()[0] / 2 * min(1.0, torch.get_num_threads() / (os.cpu_count() or 1))


def _full(inner: Inner, theta: Tensor, batches: Sequence[Batch], lr: Tensor) -> Path:
    if not theta.requires_grad:
        theta = theta.detach().requires_grad_()
    path = [theta]
    for x, y, view in batches:
        loss = inner(path[-1], view(x), y)
        (gradient,) = torch.autograd.grad(loss, path[-1], create_graph=True)
        path.append(path[-1] - lr * gradient)
    return tuple(path)


class _Sweep(torch.autograd.Function):
    """The path with a backward that recomputes one step at a time; steps that share images share their gradient."""

    @staticmethod
    def forward(
        ctx: Any, steps: StudentSteps, plan: Plan, second_order: bool, theta: Tensor, lr: Tensor, *tensors: Tensor
    ) -> Path:
        path, wanted = [theta.detach().clone()], ctx.needs_input_grad[5:]
        for step, (x_place, y_place, view) in enumerate(plan):
            x, y = (tensors[place].detach().requires_grad_(wanted[place]) for place in (x_place, y_place))
            batch = Batch(x, y, view)
            path.append(path[-1] - lr * steps.gradient(step, path[-1], batch))
        ctx.student, ctx.plan, ctx.second_order = steps, plan, second_order
        ctx.save_for_backward(lr, *path, *tensors)
        ctx.set_materialize_grads(False)
        return tuple(path)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        steps = len(ctx.plan)
        lr, path, tensors = ctx.saved_tensors[0], ctx.saved_tensors[1 : steps + 2], ctx.saved_tensors[steps + 2 :]
        wanted = ctx.needs_input_grad[5:]
        gradients: list[Tensor | None] = [None] * len(tensors)
        adjoint = cotangents[steps]
        adjoint = torch.zeros_like(path[0]) if adjoint is None else adjoint
        lr_gradient = torch.zeros_like(lr)
        for step in reversed(range(steps)):
            *pair, view = ctx.plan[step]
            x, y = (tensors[place].detach().requires_grad_(wanted[place]) for place in pair)
            slopes = ctx.student.slopes(step, path[step], Batch(x, y, view), adjoint, ctx.second_order)
            lr_gradient = lr_gradient - slopes.value
            for place, value in zip(pair, (slopes.x, slopes.y), strict=True):
                if value is not None:
                    total = gradients[place]
                    gradients[place] = -lr * value if total is None else total.sub_(lr * value)
            if slopes.theta is not None:
                adjoint = adjoint - lr * slopes.theta
            cotangent = cotangents[step]
            if cotangent is not None:
                adjoint = adjoint + cotangent
        return (None, None, None, adjoint, lr_gradient, *gradients)
