"""A step of a network's training as compiled code."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from raydd.numerics.compiled import Kernel, compiled

Step = Callable[..., Tensor]
"""(network, tensors of a batch) -> its loss, detached; leaves the gradient in the network's parameters."""


class CompiledStep:
    """Does what a step does, compiled for every shape of a batch."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._kernels: dict[Any, Kernel] = {}

    def __call__(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """Return the loss of a batch, and leave its gradient and the running statistics after it in the network."""
        parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
        tensors = [*batch, *(value.detach() for value in parameters.values()), *buffers.values()]
        key = tuple((tuple(each.shape), each.dtype, each.device) for each in tensors)
        if key not in self._kernels:
            names = [f"network.{name}" for name in (*parameters, *buffers)]
            shell = _Gradients(self._step, network)

            def part(*tensors: Tensor) -> tuple[Tensor, ...]:
                first, last = len(batch), len(batch) + len(parameters)
                leaves = [value.detach().requires_grad_() for value in tensors[first:last]]
                named = dict(zip(names, (*leaves, *tensors[last:]), strict=True))
                results: tuple[Tensor, ...] = functional_call(shell, named, tensors[:first])
                return results

            self._kernels[key] = compiled(part, [each.clone() for each in tensors])
        loss, *gradients = self._kernels[key](*tensors)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        return loss


class _Gradients(nn.Module):
    """Returns the loss and the gradients that a step leaves in a network's parameters."""

    def __init__(self, step: Step, network: nn.Module) -> None:
        super().__init__()
        self.network, self._step = network, step

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        loss = self._step(self.network, *batch)
        return loss, *(value.grad for value in self.network.parameters() if value.grad is not None)
