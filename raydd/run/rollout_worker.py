"""Parts of a distillation's steps in any process: the task of a worker, and the worker. Nothing here knows of Ray.

A part is a rollout, or one of the shards that a step is cut into; see `raydd.distillation.parts`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydd.buffer.segments import TrajectorySource
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace, set_precision
from raydd.distillation.objective import Divisible
from raydd.distillation.parts import Division, Matches, Parts, Sequential
from raydd.distillation.rollouts import Matcher, rollout_division
from raydd.distillation.setup import Recipe, Setup
from raydd.io.memory import keep_memory
from raydd.methods import find_method


class RolloutTask(NamedTuple):
    """All that a worker needs to compute parts of one run."""

    config: DistillConfig
    synset: SyntheticSet
    source: TrajectorySource | None


StartWorkers = Callable[[RolloutTask, Division], Parts]
"""Starts workers that compute the parts of a run's steps, of a division that this process could compute alone."""


class RolloutWorker:
    """Computes parts of one run's steps."""

    def __init__(self, task: RolloutTask, device: torch.device) -> None:
        config = task.config
        self._threads = config.threads or 1
        torch.set_num_threads(self._threads)
        keep_memory()
        set_precision(config.precision)
        work = open_workspace(config.data, config.experts.network, device, task.synset.transform)
        recipe = find_method(config.method)(Setup(config, work, task.source, task.synset))
        self._part = division_of(config, recipe).part

    def ready(self) -> bool:
        """Return True once the worker is built."""
        return True

    def compute(self, index: int, *arguments: Any) -> Any:
        """Return the result of a part, whose tensors are arrays here."""
        torch.set_num_threads(self._threads)  # of each thread that calls
        return as_arrays(self._part(index, *map(as_tensors, arguments)))


def as_arrays(value: Any) -> Any:
    """Return a value with arrays for the tensors in its dictionaries and tuples; lists become tuples."""
    return _each(value, Tensor, lambda tensor: tensor.detach().cpu().numpy())


def as_tensors(value: Any) -> Any:
    """Return a value with tensors for the arrays in it; they have memory of their own."""
    return _each(value, np.ndarray, torch.tensor)


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    match value:
        case dict():
            return {key: _each(entry, kind, change) for key, entry in value.items()}
        case list() | tuple():
            return tuple(_each(entry, kind, change) for entry in value)
        case _:
            return change(value) if isinstance(value, kind) else value


def concurrent_parts(config: DistillConfig) -> int:
    """Return how many parts of a step workers can compute at the same time."""
    return config.shards if config.shards > 1 else config.rollouts


def division_of(config: DistillConfig, recipe: Recipe) -> Division:
    """Return how the steps of a run are divided: into shards, or into whole rollouts.

    Raises:
        ValueError: The method's steps cannot be cut into shards.
    """
    if config.shards == 1:
        return rollout_division(Matcher(recipe.objective, recipe.synset, config.seed), config.rollouts)
    if not isinstance(recipe.objective, Divisible):
        raise ValueError(f"shards = {config.shards}: the steps of method {config.method} cannot be cut; drop it")
    return recipe.objective.divide(recipe.synset, config.seed, config.shards, config.rollouts)


def matches_of(setup: Setup, recipe: Recipe, start_workers: StartWorkers | None) -> Matches | None:
    """Return what computes the steps of a run, or None where the loop itself does."""
    config = setup.config
    if start_workers is None and concurrent_parts(config) == 1:
        return None
    division = division_of(config, recipe)
    if start_workers is None:
        return division.matches(Sequential(division.part, division.count))
    task = RolloutTask(config, recipe.synset.to("cpu"), setup.source)
    return division.matches(start_workers(task, division))
