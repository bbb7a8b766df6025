"""Selections of real images.

A method is a function from a `Setup` to a `Recipe`, and one row of `METHODS`. What it sets without being asked is
its row of `DEFAULTS`.
"""

from collections.abc import Callable

from raydd.config.parsing import Tree
from raydd.distillation.recipe import Recipe, Setup, selection


def coreset(setup: Setup) -> Recipe:
    """Images of the training set as they are; nothing is learned.

    random; kmeans, the images nearest to cluster centres; herding (Welling 2009), whose mean follows the
    class's; kcenter (Sener & Savarese, arXiv 1708.00489), from which no image of the class is far; forgetting
    (Toneva et al., arXiv 1812.05159), what experts learned and forgot most often. Any of them can be another
    method's start too: ``--set initial=herding``.
    """
    return selection(setup)


_CORESET: Tree = {"match": "nothing", "steps": 0}

METHODS: dict[str, Callable[[Setup], Recipe]] = dict.fromkeys(
    ("random", "kmeans", "herding", "kcenter", "forgetting"), coreset
)

DEFAULTS: dict[str, Tree] = {
    "random": _CORESET,
    "kmeans": _CORESET | {"initial": "kmeans", "select_by": "pixels"},
    "herding": _CORESET | {"initial": "herding", "experts": {"num_experts": 1}},  # it asks one of them
    "kcenter": _CORESET | {"initial": "kcenter", "experts": {"num_experts": 1}},
    "forgetting": _CORESET | {"initial": "forgetting", "experts": {"num_experts": 5}},
}
