"""Several objectives on one synthetic set: their losses, weighted and summed."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.objective import Objective


@dataclass(frozen=True)
class WeightedSum:
    """The weighted sum of objectives, whose gradients are summed for one optimiser step.

    Parts come one after another, those of the first objective first, so that no more than one graph is held.

    Attributes:
        terms: Each objective with its weight.
    """

    joint: ClassVar[bool] = True
    terms: tuple[tuple[Objective[Any], float], ...]

    @property
    def parts(self) -> int:
        """The parts of all objectives."""
        return sum(objective.parts for objective, _ in self.terms)

    def init(self, rng: torch.Generator) -> dict[str, Any]:
        """Return the state of each objective, by its place."""
        return {str(place): objective.init(rng) for place, (objective, _) in enumerate(self.terms)}

    def loss(
        self, synset: SyntheticSet, state: dict[str, Any], step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weighted loss of a part, a scalar; what an objective does not depend on has a gradient of 0."""
        place, own = 0, part
        while own >= (count := self.terms[place][0].parts):
            place, own = place + 1, own - count
        objective, weight = self.terms[place]
        loss, after = objective.loss(synset, state[str(place)], step, rng, own)
        leaves = [leaf for leaf in synset.parts.values() if leaf.requires_grad]
        return weight * loss + sum(0 * leaf.sum() for leaf in leaves), state | {str(place): after}
