"""Functions of tensors, compiled with their first and second derivatives.

PyTorch compiles no function that is differentiated twice, as the student's steps are. Here the function and each of its
derivatives is traced, operation by operation, and compiled as a function of its own for every shape of its arguments. A
derivative computes again what it needs, so that a graph holds no more than the arguments.

Compiled code rounds in other places than operations one by one. Equal arguments give equal results.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Kernel = Callable[..., Sequence[Tensor]]
Wanted = tuple[bool, ...]


class Compiled:
    """A compiled function of tensors that can be differentiated twice.

    Args:
        function: Takes tensors and returns one. What else it depends on must never change.
        scalar: Whether it returns a scalar, whose gradients are computed with its value.

    >>> square = Compiled(lambda x: (x * x).sum(), scalar=True)
    >>> x = torch.ones(3, requires_grad=True)
    >>> torch.autograd.grad(square(x), x)  # doctest: +SKIP
    (tensor([2., 2., 2.]),)
    """

    def __init__(self, function: Callable[..., Tensor], scalar: bool) -> None:
        self.scalar = scalar
        self._function = function
        self._kernels: dict[Any, Kernel] = {}

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Return the function's value."""
        wanted = tuple(argument.requires_grad for argument in arguments)
        if not (torch.is_grad_enabled() and any(wanted)):
            return self.value(*arguments)
        value: Tensor = _Value.apply(self, wanted, *arguments)
        return value

    def value(self, *arguments: Tensor) -> Tensor:
        """Return the value, without a graph."""
        return self._run("value", lambda *arguments: [self._function(*arguments)], arguments)[0]

    def value_and_gradients(self, wanted: Wanted, *arguments: Tensor) -> Sequence[Tensor]:
        """Return a scalar function's value and then its gradients by the arguments that are wanted, without a graph."""

        def part(*arguments: Tensor) -> Sequence[Tensor]:
            inputs = _leaves(arguments, wanted)
            with torch.enable_grad():
                value = self._function(*inputs)
            return [value.detach(), *_gradients(value, _chosen(inputs, wanted))]

        return self._run(("value and gradients", wanted), part, arguments)

    def gradients(self, wanted: Wanted, cotangent: Tensor, *arguments: Tensor) -> Sequence[Tensor]:
        """Return the gradients of <cotangent, value> by the arguments that are wanted, without a graph."""

        def part(cotangent: Tensor, *arguments: Tensor) -> Sequence[Tensor]:
            inputs = _leaves(arguments, wanted)
            with torch.enable_grad():
                value = self._function(*inputs)
            return _gradients(value, _chosen(inputs, wanted), cotangent)

        return self._run(("gradients", wanted), part, (cotangent, *arguments))

    def slopes(self, wanted: Wanted, by: Wanted, *tensors: Tensor) -> Sequence[Tensor]:
        """Return the gradients of sum_i <lambda_i, g_i>, where g_i are the `gradients`, without a graph.

        Args:
            wanted: By which arguments the g_i are.
            by: By which of the cotangent and the arguments the results are.
            tensors: The lambdas, the cotangent and the arguments.
        """

        def part(*tensors: Tensor) -> Sequence[Tensor]:
            lambdas, points = tensors[: sum(wanted)], tensors[sum(wanted) :]
            cotangent, *arguments = _leaves(points, [a or b for a, b in zip((False, *wanted), by, strict=True)])
            with torch.enable_grad():
                value = self._function(*arguments)
                first = _gradients(value, _chosen(arguments, wanted), cotangent, create_graph=True)
                slope = torch.stack([(one * other).sum() for one, other in zip(first, lambdas, strict=True)]).sum()
            return _gradients(slope, _chosen([cotangent, *arguments], by))

        return self._run(("slopes", wanted, by), part, tensors)

    def _run(self, name: Any, part: Kernel, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        tensors = [tensor.detach() for tensor in tensors]
        key = name, *((tuple(each.shape), each.stride(), each.dtype, each.device) for each in tensors)
        if key not in self._kernels:
            self._kernels[key] = compiled(part, tensors)
        return self._kernels[key](*tensors)


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: Compiled, wanted: Wanted, *arguments: Tensor) -> Tensor:
        if compiled.scalar:
            value, *gradients = compiled.value_and_gradients(wanted, *arguments)
        else:
            value, gradients = compiled.value(*arguments), []
        ctx.compiled, ctx.wanted = compiled, wanted
        ctx.save_for_backward(*arguments, *gradients)
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        gradients = iter(_Gradients.apply(ctx.compiled, ctx.wanted, cotangent, *ctx.saved_tensors))
        return (None, None, *(next(gradients) if one else None for one in ctx.wanted))


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compiled: Compiled, wanted: Wanted, cotangent: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        arguments, known = tensors[: len(wanted)], tensors[len(wanted) :]
        ctx.compiled, ctx.wanted = compiled, wanted
        ctx.save_for_backward(cotangent, *arguments)
        if compiled.scalar:
            return tuple(cotangent * gradient for gradient in known)
        return tuple(compiled.gradients(wanted, cotangent, *arguments))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *lambdas: Tensor) -> tuple[Any, ...]:
        arguments = len(ctx.wanted)
        by = tuple(ctx.needs_input_grad[2 : 3 + arguments])
        slopes = iter(ctx.compiled.slopes(ctx.wanted, by, *lambdas, *ctx.saved_tensors))
        rest = len(ctx.needs_input_grad) - 3 - arguments
        return (None, None, *(next(slopes) if one else None for one in by), *[None] * rest)


def _leaves(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [tensor.detach().requires_grad_(one) for tensor, one in zip(tensors, wanted, strict=True)]


def _chosen(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [tensor for tensor, one in zip(tensors, wanted, strict=True) if one]


def _gradients(
    value: Tensor, by: Sequence[Tensor], cotangent: Tensor | None = None, create_graph: bool = False
) -> Sequence[Tensor]:
    """Return gradients, zero where the value does not depend on a tensor."""
    if not value.requires_grad:
        return [torch.zeros_like(tensor) for tensor in by]
    return torch.autograd.grad(value, by, cotangent, create_graph=create_graph, materialize_grads=True)


def compiled(part: Kernel, examples: Sequence[Tensor]) -> Kernel:
    """Return a function of tensors compiled for the shapes of examples; derivatives that it takes are traced."""
    from torch.fx.experimental.proxy_tensor import make_fx

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where there is no GPU
    graph = make_fx(lambda *tensors: list(part(*tensors)))(*examples)
    if not examples[0].is_cuda:
        return torch.compile(graph, dynamic=False)
    kernel = torch.compile(graph, dynamic=False, mode="reduce-overhead")  # a CUDA graph

    def copied(*tensors: Tensor) -> Sequence[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return [result.clone() for result in kernel(*tensors)]  # the graph's next replay writes over its results

    return copied


def check_compiler(device: torch.device) -> None:
    """Refuse to compile for a CPU on a machine without a C++ compiler."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise ValueError("compile = true needs a C++ compiler, and this machine has none; install g++, or leave it out")
