"""The recipes of methods, by what they match."""

from collections.abc import Callable

from raydd.distillation.kernel_regression import match_kernel
from raydd.distillation.real_loss import match_real_loss
from raydd.distillation.setup import Recipe, Setup, select_images
from raydd.distillation.statistic_matching import match_statistics
from raydd.distillation.trajectory_matching import match_trajectories

FAMILIES: dict[str, Callable[[Setup], Recipe]] = {
    "trajectories": match_trajectories,
    "statistics": match_statistics,
    "loss": match_real_loss,
    "kernel": match_kernel,
    "nothing": select_images,
}
"""By the name of ``match``."""
