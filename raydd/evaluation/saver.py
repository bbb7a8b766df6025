"""Checkpoints of a training: written by time, and read where the training goes on to the same bits."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

SECONDS = 30.0
MOST_SHARE = 0.05
"""The largest share of a training's time that its checkpoints take, by which large ones are written less often."""

State = dict[str, Any]
"""Numbers, texts and arrays, in lists and mappings of these."""


class Saver:
    """Saves the state of one training now and then, and has the last one of an interrupted training.

    A training may consist of several parts, one after another, each with a value and a state of its own.

    Args:
        save: Stores a state; None saves nothing.
        state: The last state that was stored, of the same training.
        seconds: The time between two states.

    >>> states = []
    >>> saver = Saver(states.append, seconds=0.0)
    >>> saver.part(lambda: saver.offer(lambda: {"epoch": 3}) or 0.5)
    0.5
    >>> again = Saver(states.append, states[-1])
    >>> again.part(lambda: again.take()["epoch"])
    3
    """

    def __init__(
        self, save: Callable[[State], None] | None = None, state: State | None = None, seconds: float = SECONDS
    ) -> None:
        state = state or {"values": [], "curve": [], "part": None, "seconds": 0.0}
        self._save, self._seconds = save, seconds
        self._values: list[float] = list(state["values"])  # of the parts that have ended
        self.curve: list[tuple[int, float]] = [(int(epoch), float(value)) for epoch, value in state["curve"]]
        self._state: State | None = state["part"]
        self.earlier_seconds: float = state["seconds"]  # of the interrupted training until its last state
        self._started, self._begun = 0, time.monotonic()
        self._due = self._begun + seconds

    def part(self, train: Callable[[], float]) -> float:
        """Return the value of the next part; one that ended before is not trained again."""
        self._started += 1
        if self._started > len(self._values):
            self._values.append(train())
            self._state = None
        return self._values[self._started - 1]

    def take(self) -> State | None:
        """Return the state from which the current part goes on; None if it begins."""
        state, self._state = self._state, None
        return state

    def offer(self, state: Callable[[], State]) -> None:
        """Save the current part's state if it is time."""
        if self._save is None or (start := time.monotonic()) < self._due:
            return
        seconds = self.earlier_seconds + start - self._begun
        self._save({"values": list(self._values), "curve": list(self.curve), "part": state(), "seconds": seconds})
        now = time.monotonic()
        self._due = now + max(self._seconds, (now - start) / MOST_SHARE)


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return copies of tensors as arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def to_tensor(array: np.ndarray) -> Tensor:
    """Return a copy of an array, which may be read-only memory that other processes share."""
    return torch.tensor(array)
