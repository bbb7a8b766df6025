"""AdamW of a network's parameters by torch's functional step, called as `raydd.numerics.sgd.Sgd` is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from raydd.numerics.adam import BETAS, EPSILON


class AdamW:
    """Adam with decoupled weight decay: to the bit what `torch.optim.AdamW` does.

    Parameters are stepped in place along their ``grad``; one without a gradient is left alone.

    Args:
        parameters: What is learned.
        lr: Learning rate in the first epoch.
        weight_decay: The part of a parameter that a step removes, over the learning rate.
        milestones: Epochs after which the learning rate is multiplied by ``gamma``.
        gamma: The factor at a milestone.
        epochs: Epochs over which ``cosine`` is spread.
        cosine: The part of half a cosine wave by which the learning rate falls: after e epochs it is multiplied by
            (1 + cos(pi cosine e / epochs)) / 2.

    >>> x = torch.ones(1, requires_grad=True)
    >>> x.grad = torch.full((1,), 2.0)
    >>> AdamW([x], lr=0.5, weight_decay=0.0).step()
    >>> x.detach()
    tensor([0.5000])
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        milestones: Sequence[int] = (),
        gamma: float = 1.0,
        *,
        epochs: int = 1,
        cosine: float = 0.0,
    ) -> None:
        self._parameters = list(parameters)
        self._first_lr, self._decay = lr, weight_decay
        self._milestones, self._gamma, self._epochs, self._cosine = tuple(milestones), gamma, epochs, cosine
        self._epoch = 0
        self._means = [torch.zeros_like(each) for each in self._parameters]
        self._squares = [torch.zeros_like(each) for each in self._parameters]
        self._steps = [torch.zeros(()) for _ in self._parameters]  # on the CPU, where they are read

    @property
    def lr(self) -> float:
        """The learning rate of this epoch."""
        passed = sum(epoch <= self._epoch for epoch in self._milestones)
        wave = (1 + math.cos(math.pi * self._cosine * self._epoch / self._epochs)) / 2
        return self._first_lr * self._gamma**passed * wave

    @torch.no_grad()
    def step(self) -> None:
        """Step every parameter that has a gradient."""
        moved = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        adamw(
            [self._parameters[index] for index in moved],
            [gradient for index in moved if (gradient := self._parameters[index].grad) is not None],
            [self._means[index] for index in moved],
            [self._squares[index] for index in moved],
            [],
            [self._steps[index] for index in moved],
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=self._decay,
            eps=EPSILON,
            maximize=False,
        )

    def state(self) -> dict[str, Any]:
        """Return a copy of the epoch, both moments and the numbers of steps, as numbers and arrays."""
        moments = {"means": self._means, "squares": self._squares}
        arrays = {name: [each.cpu().numpy().copy() for each in tensors] for name, tensors in moments.items()}
        return {"epoch": self._epoch, "steps": [float(step) for step in self._steps], **arrays}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state` of the same parameters."""
        self._epoch = state["epoch"]
        self._steps = [torch.tensor(float(step)) for step in state["steps"]]
        for name, own in (("means", self._means), ("squares", self._squares)):
            for tensor, array in zip(own, state[name], strict=True):
                tensor.copy_(torch.tensor(array))

    def end_epoch(self) -> None:
        """End an epoch: the learning rate follows its schedule."""
        self._epoch += 1
