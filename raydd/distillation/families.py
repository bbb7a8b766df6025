"""The recipes of methods, by what they match."""

from collections.abc import Callable

from raydd.distillation.kernel_regression import match_kernel
from raydd.distillation.real_loss import match_real_loss
from raydd.distillation.setup import Recipe, Setup, select_images
from raydd.distillation.statistic_matching import match_statistics
from raydd.distillation.trajectory_matching import match_trajectories
from raydd.distillation.weighted_sum import WeightedSum


def match_beside(setup: Setup) -> Recipe:
    """Return the recipe of trajectory matching, with the loss of statistics beside it where its weight is not 0."""
    recipe, weight = match_trajectories(setup), setup.config.statistic.beside
    if not weight:
        return recipe
    terms = ((recipe.objective, 1.0), (match_statistics(setup).objective, weight))
    return recipe._replace(objective=WeightedSum(terms))


FAMILIES: dict[str, Callable[[Setup], Recipe]] = {
    "trajectories": match_beside,
    "statistics": match_statistics,
    "loss": match_real_loss,
    "kernel": match_kernel,
    "nothing": select_images,
}
"""By the name of ``match``."""
