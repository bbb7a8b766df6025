"""Real training images, by class and of all classes.

Shapes: `B` batch, `C H W` image, `P` parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raydd.data.workspace import Feed
from raydd.numerics.flat import FlatModel
from raydd.selection.coresets import centres, nearest

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
        return self.take(self.draw(label, count, rng))

    def draw(self, label: int, count: int, rng: torch.Generator) -> Tensor:
        """Return rows (n,) of a class, drawn without replacement: ``count``, or all if there are fewer."""
        rows = self._rows[label]
        return rows[torch.randperm(len(rows), generator=rng)[:count]]

    def take(self, rows: Tensor) -> Tensor:
        """Return the images (n, C, H, W) of rows."""
        return self.feed(rows)[0]

    def mixed(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) of any class and their classes (B,), drawn without replacement."""
        return self.feed(torch.randperm(len(self.feed), generator=rng)[:count])


@dataclass(frozen=True)
class Representatives:
    """Real images of a class that are nearest to the centres of clusters of their features.

    Attributes:
        images: The real images.
        model: The network as a function of theta.
        every: Outer steps from one choice to the next.
        most: Images of a class, drawn anew for each choice, that are clustered.

    Reference:
        Liu et al., arXiv 2302.14416 (DREAM).

    Differs:
        Its code clusters all images of a class; ``most`` of them are taken here.
    """

    images: RealImages
    model: FlatModel
    every: int
    most: int = 1000

    def choose(self, theta: Tensor, label: int, count: int, rng: torch.Generator) -> Tensor:
        """Return rows (count,) of a class, one a cluster; all that are looked at where there are no more."""
        rows = self.images.draw(label, self.most, rng)
        if len(rows) <= count:
            return rows
        with torch.no_grad():
            points = self.model.features(theta, self.images.take(rows).to(theta)).cpu()
        return rows[nearest(centres(points, count, rng), points)]
