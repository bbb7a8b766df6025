"""What the one loop of every distiller asks of a method."""

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet

State = TypeVar("State")


class Objective(Protocol[State]):
    """What a synthetic set must match."""

    @property
    def parts(self) -> int:
        """Losses an outer step, one after another."""

    @property
    def joint(self) -> bool:
        """Whether the optimiser steps once, on the sum of the parts; else it steps after each."""

    def init(self, rng: torch.Generator) -> State:
        """What the objective carries from step to step: nested dictionaries of tensors, or None."""

    def loss(
        self, synset: SyntheticSet, state: State, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, State]:
        """The scalar to lower in a part of an outer step, and the state for what follows.

        ``rng`` belongs to this part of this outer step: no other part's draws come before its own. So parts may be
        computed in any order, or in several processes, to the same bits.
        """
