"""The learned parts of a synthetic set, and the optimisers that step them."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from raydd.data.preprocessing import Transform
from raydd.numerics.adam import Adam
from raydd.numerics.sgd import Sgd

WEIGHT_DECAY = 0.01
"""Of AdamW, as PyTorch has it."""
THRESHOLD, FACTOR = 1e-4, 0.5
"""A loss is lower than the best where it is by this part; what a plateau does to the learning rates."""


class Leaf(NamedTuple):
    """How one part of the synthetic set is learned.

    Attributes:
        lr: Learning rate, in the units of ``scale``.
        momentum: Heavy-ball momentum of SGD.
        scale: The leaf is learned as ``leaf / scale`` would be; broadcasts to the leaf.
        bounds: The least and the largest value; both broadcast to the leaf.
        optimizer: SGD with momentum, Adam, or Adam with decoupled weight decay.
        patience: Outer steps without a lower loss after which the learning rate is halved; None never does.
    """

    lr: float
    momentum: float = 0.0
    scale: Tensor | None = None
    bounds: tuple[Tensor, Tensor] | None = None
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    patience: int | None = None

    def gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient for SGD, times the squared scale: the chain rule there and back. Adam has its own."""
        if self.scale is None or self.optimizer != "sgd":
            return gradient
        return gradient * self.scale.to(gradient).square()

    def clamp(self, value: Tensor) -> None:
        """Clamp a value to the bounds, in place."""
        if self.bounds is not None:
            value.clamp_(*(bound.to(value) for bound in self.bounds))


def pixel_leaf(lr: float, momentum: float, transform: Transform) -> Leaf:
    """Return the leaf of images that are learned as pixels in [0, 1], whatever their preprocessing."""
    if transform.kind == "zca":
        raise ValueError(
            "space = pixels: zca mixes pixels, which cannot be kept in [0, 1] then; use --set space=network, "
            "or --set data.preprocessing=normalise"
        )
    arrays = transform.tensors
    if "std" not in arrays:
        return Leaf(lr, momentum, None, (torch.tensor(0.0), torch.tensor(1.0)))
    mean, std = (arrays[name].to(transform.dtype)[:, None, None] for name in ("mean", "std"))
    return Leaf(lr, momentum, 1 / std, (-mean / std, (1 - mean) / std))


class Optimizers:
    """The optimisers of all learned parts, with what resuming needs.

    Args:
        leaves: The learned parts, which are stepped in place.
        learn: How each is learned.

    Attributes:
        steppers: By part: what steps it along its gradient.
    """

    def __init__(self, leaves: Mapping[str, Tensor], learn: Mapping[str, Leaf]) -> None:
        self._leaves, self._learn = leaves, learn
        self._patience = next((leaf.patience for leaf in learn.values()), None)
        self.steppers = {name: _stepper(leaves[name], leaf) for name, leaf in learn.items()}
        self._best: float | None = None
        self._waited, self._scale = 0, 1.0

    def observe(self, loss: float) -> None:
        """Take the loss of an outer step; where it has not been lower for long, halve the learning rates."""
        if self._patience is None:
            return
        if self._best is None or loss < self._best * (1 - math.copysign(THRESHOLD, self._best)):
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited > self._patience:
            self._waited = 0
            self._rescale(self._scale * FACTOR)

    def _rescale(self, scale: float) -> None:
        self._scale = scale
        for name, stepper in self.steppers.items():
            stepper.lr = self._learn[name].lr * scale

    @property
    def tensors(self) -> list[Tensor]:
        """All that the optimisers carry from step to step."""
        carried = [tensor for stepper in self.steppers.values() for tensor in _moments(stepper)]
        return [tensor for tensor in carried if tensor is not None]

    def state(self) -> dict[str, Any]:
        """Return copies of all that resuming needs; of SGD without a plateau the momenta alone."""
        moments = {name: [_copy(each) for each in _moments(stepper)] for name, stepper in self.steppers.items()}
        state: dict[str, Any] = {"momentum": {name: each[0] for name, each in moments.items()}}
        if any(len(each) > 1 for each in moments.values()):
            state["second"] = {name: each[1] for name, each in moments.items() if len(each) > 1}
            state["count"] = {
                name: stepper.count for name, stepper in self.steppers.items() if isinstance(stepper, Adam)
            }
        if self._patience is not None:
            state["plateau"] = {"best": self._best, "waited": self._waited, "scale": self._scale}
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same parts."""
        for name, stepper in self.steppers.items():
            first = _copy(state["momentum"][name], self._leaves[name])
            if isinstance(stepper, Adam):
                stepper.first, stepper.second = first, _copy(state["second"][name], self._leaves[name])
                stepper.count = state["count"][name]
            else:
                stepper.velocities[0] = first
        if self._patience is not None:
            plateau = state["plateau"]
            self._best, self._waited = plateau["best"], plateau["waited"]
            self._rescale(plateau["scale"])


def _stepper(leaf: Tensor, how: Leaf) -> Sgd | Adam:
    if how.optimizer == "sgd":
        return Sgd([leaf], how.lr, how.momentum)
    return Adam(leaf, how.lr, WEIGHT_DECAY if how.optimizer == "adamw" else 0.0, how.scale)


def _moments(stepper: Sgd | Adam) -> list[Tensor | None]:
    return [stepper.first, stepper.second] if isinstance(stepper, Adam) else [stepper.velocities[0]]


def _copy(tensor: Tensor | None, like: Tensor | None = None) -> Tensor | None:
    if tensor is None:
        return None
    tensor = tensor.detach().clone()
    return tensor if like is None else tensor.to(like)
