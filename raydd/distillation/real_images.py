"""Real training images, by class and of all classes.

Shapes: `B` batch, `C H W` image.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raydd.data.workspace import Feed

Real = Callable[[int, int, torch.Generator], Tensor]
"""(class, at most so many, rng) -> real images (B, C, H, W) of the class, none twice."""


@dataclass(frozen=True, eq=False)
class RealImages:
    """Preprocessed training images, by class."""

    feed: Feed
    _rows: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        targets = self.feed.split.targets
        rows = tuple(torch.nonzero(targets == label)[:, 0] for label in range(int(targets.max()) + 1))
        object.__setattr__(self, "_rows", rows)

    def __call__(self, label: int, count: int, rng: torch.Generator) -> Tensor:
        """Return images (B, C, H, W) of a class, drawn without replacement: ``count``, or all if there are fewer."""
        rows = self._rows[label]
        return self.feed(rows[torch.randperm(len(rows), generator=rng)[:count]])[0]

    def mixed(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) of any class and their classes (B,), drawn without replacement."""
        return self.feed(torch.randperm(len(self.feed), generator=rng)[:count])
