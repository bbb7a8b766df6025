"""Numbered parts of an outer step, which any process can compute: rollouts, groups of classes, pieces of a batch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Leaves = Mapping[str, Tensor]

Part = Callable[..., Any]
"""(number, *arguments) -> the result of that part.

Arguments and results are tensors, numbers, text and None, and dictionaries, lists and tuples of them.
"""


class Rollout(NamedTuple):
    """One match of an outer step, or one part of it."""

    loss: float | Tensor  # a tensor where it has been computed in this process
    gradients: tuple[Tensor, ...]


class Parts(Protocol):
    """Computes all parts of some work, in any process."""

    def share(self, value: Any) -> Any:
        """Return a reference to a value; calls that are given the reference send the value once."""

    def __call__(self, *arguments: Any) -> list[Any]:
        """Return the results of all parts for these arguments, in the order of the parts' numbers."""


@dataclass(frozen=True)
class Sequential:
    """Computes ``count`` parts one after another in this process."""

    part: Part
    count: int

    def share(self, value: Any) -> Any:
        """Return the value itself."""
        return value

    def __call__(self, *arguments: Any) -> list[Any]:
        """Return the results of all parts."""
        return [self.part(index, *arguments) for index in range(self.count)]


Matches = Callable[[Iterable[Leaves], Any, int, int], tuple[Iterable[Rollout], Any]]
"""(leaves before each part, state, outer step, attempt) -> the rollout of each part, and the state after the step.

The leaves before a part are those that it has if the gradients of all parts before it are zero.
"""


@dataclass(frozen=True)
class Division:
    """How an outer step is divided among workers.

    Attributes:
        count: The number of parts.
        part: Computes one part, to the same bits in every process of as many threads.
        matches: Makes what the loop calls of something that computes all parts.
    """

    count: int
    part: Part
    matches: Callable[[Parts], Matches]
