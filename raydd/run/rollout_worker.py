"""Rollouts of a distillation in any process: the task of a worker, and the worker. Nothing here knows of Ray."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from raydd.buffer.segments import TrajectorySource
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace, resolve_device
from raydd.distillation.rollouts import Matcher, Rollouts, sequential
from raydd.distillation.setup import Recipe, Setup
from raydd.io.memory import keep_memory
from raydd.methods import find_method

Arrays = Mapping[str, np.ndarray[Any, Any]]


class RolloutTask(NamedTuple):
    """All that a worker needs to make rollouts of one run."""

    config: DistillConfig
    synset: SyntheticSet
    source: TrajectorySource | None


StartWorkers = Callable[[RolloutTask], Rollouts]
"""Starts workers that make the rollouts of a run."""


class RolloutWorker:
    """Makes rollouts of one run."""

    def __init__(self, task: RolloutTask, device: str) -> None:
        config = task.config
        self._threads = config.threads or 1
        torch.set_num_threads(self._threads)
        keep_memory()
        work = open_workspace(config.data, config.experts.network, resolve_device(device), task.synset.transform)
        recipe = find_method(config.method)(Setup(config, work, task.source, task.synset))
        self._matcher = Matcher(recipe.objective, recipe.synset, config.seed)

    def ready(self) -> bool:
        """Return True once the worker is built."""
        return True

    def roll(self, leaves: Arrays, step: int, attempt: int, index: int) -> tuple[float, list[np.ndarray[Any, Any]]]:
        """Return one rollout's loss and gradients, see `raydd.distillation.rollouts.Matcher`."""
        torch.set_num_threads(self._threads)  # of each thread that calls
        tensors = {name: torch.tensor(leaf) for name, leaf in leaves.items()}
        loss, gradients = self._matcher(tensors, step, attempt, index)
        return loss, [gradient.cpu().numpy() for gradient in gradients]


def rollouts_of(setup: Setup, recipe: Recipe, start_workers: StartWorkers | None) -> Rollouts | None:
    """Return what makes the rollouts of a run, or None where a step matches once, in the loop itself."""
    config = setup.config
    if start_workers is not None:
        return start_workers(RolloutTask(config, recipe.synset.to("cpu"), setup.source))
    if config.rollouts == 1:
        return None
    return sequential(Matcher(recipe.objective, recipe.synset, config.seed), config.rollouts)
