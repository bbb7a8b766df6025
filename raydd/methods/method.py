"""What a method is: one row of `raydd.METHODS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from raydd.config.parsing import Tree

if TYPE_CHECKING:
    from raydd.distillation.setup import Recipe, Setup


@dataclass(frozen=True)
class Method:
    """A method of dataset distillation.

    Attributes:
        name: The name that ``DistillConfig.method`` takes.
        about: What it does: one line, then the equation, ``Reference:`` and ``Differs:``.
        match: What it matches: trajectories, statistics, a loss on real images, a kernel regression to real labels, or
            nothing (real images are selected).
        defaults: The settings that it has where neither a preset nor the user sets them.
        image_rates: ``lr.images`` per stored image of a class, where it grows with ``ipc``: by data set, "" for all
            others.
        ablation: The rows of its paper's ablation: by name, what each sets over the method's settings. The last row is
            the whole method.
        compose: Makes the recipe of an objective of its own; None takes that of ``match``.
    """

    name: str
    about: str
    match: Literal["trajectories", "statistics", "loss", "kernel", "nothing"] = "trajectories"
    defaults: Tree = field(default_factory=dict)
    image_rates: Mapping[str, float] = field(default_factory=dict)
    ablation: Mapping[str, Tree] = field(default_factory=dict)
    compose: "Callable[[Setup], Recipe] | None" = None

    @property
    def summary(self) -> str:
        """The first line of `about`."""
        return self.about.strip().splitlines()[0]

    def __call__(self, setup: "Setup") -> "Recipe":
        """Return what the loop needs to run this method."""
        from raydd.distillation.families import FAMILIES

        return (self.compose or FAMILIES[self.match])(setup)
