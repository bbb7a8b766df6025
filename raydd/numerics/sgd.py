"""Stochastic gradient descent by torch's functional step.

A `torch.optim.SGD` loads torch's compiler, which is not used here: more than a second and about 90 MB in every process.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class Sgd:
    """SGD with heavy-ball momentum and weight decay: to the bit what `torch.optim.SGD` does.

    v <- momentum v + (g + weight_decay theta), theta <- theta - lr v; v begins as the first gradient.

    Parameters are stepped in place along their ``grad``, and left alone where that is None. The current learning rate
    ``lr`` is multiplied by ``gamma`` after each epoch in ``milestones``, once for each mention. ``velocities`` holds v
    of each parameter, None before its first step.

    >>> x = torch.ones(1, requires_grad=True)
    >>> x.grad = torch.full((1,), 2.0)
    >>> Sgd([x], lr=0.5).step()
    >>> x.detach()
    tensor([0.])
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        milestones: Sequence[int] = (),
        gamma: float = 1.0,
    ) -> None:
        self._parameters = list(parameters)
        self.lr, self._momentum, self._decay = lr, momentum, weight_decay
        self._milestones, self._gamma, self._epoch = Counter(milestones), gamma, -1
        self.end_epoch()  # a milestone 0 counts from the start
        self.velocities: list[Tensor | None] = [None] * len(self._parameters)

    @torch.no_grad()
    def step(self) -> None:
        """Step every parameter that has a gradient."""
        moved = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        parameters = [self._parameters[index] for index in moved]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        velocities = [self.velocities[index] for index in moved]
        sgd(
            parameters,
            gradients,
            velocities,
            weight_decay=self._decay,
            momentum=self._momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for index, velocity in zip(moved, velocities, strict=True):
            self.velocities[index] = velocity

    def state(self) -> dict[str, Any]:
        """Return a copy of learning rate, epoch and velocities, as numbers and arrays."""
        velocities = [None if v is None else v.detach().cpu().numpy().copy() for v in self.velocities]
        return {"lr": self.lr, "epoch": self._epoch, "velocities": velocities}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state` of the same parameters."""
        self.lr, self._epoch = state["lr"], state["epoch"]
        self.velocities = [
            None if velocity is None else torch.tensor(velocity).to(parameter.device)
            for velocity, parameter in zip(state["velocities"], self._parameters, strict=True)
        ]

    def end_epoch(self) -> None:
        """End an epoch: the learning rate follows its schedule."""
        self._epoch += 1
        if self._epoch in self._milestones:
            self.lr *= self._gamma ** self._milestones[self._epoch]
