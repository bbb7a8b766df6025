"""The objective of a distillation: what the loop needs of a method."""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.parts import Division

State = TypeVar("State")


class Objective(Protocol[State]):
    """What a synthetic set must match."""

    @property
    def parts(self) -> int:
        """The number of losses an outer step, one after another."""

    @property
    def joint(self) -> bool:
        """Whether the optimiser steps once, on the sum of the parts; else it steps after each."""

    def init(self, rng: torch.Generator) -> State:
        """Return the state at outer step 0: nested dictionaries of tensors, or None."""

    def loss(
        self, synset: SyntheticSet, state: State, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, State]:
        """Return the scalar to minimise in a part of an outer step, and the state for what follows.

        ``rng`` belongs to this part of this outer step alone, so parts may be computed in any order, or in several
        processes, to the same bits.
        """


@runtime_checkable
class Divisible(Protocol):
    """An objective whose outer steps can be cut into shards."""

    def divide(self, synset: SyntheticSet, seed: int, shards: int, rollouts: int = 1) -> Division:
        """Return the division of an outer step; ``rollouts`` of them are averaged, one after another."""
