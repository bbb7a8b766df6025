"""Rollouts of a distillation in any process: what a worker is told, and what it makes. Nothing here knows of Ray."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from raydd.buffer.segments import TrajectorySource
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace, resolve_device
from raydd.distillation.recipe import Recipe, Setup
from raydd.distillation.rollouts import Matcher, Rolls, in_turn
from raydd.io.memory import keep_memory
from raydd.methods import METHODS

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Task(NamedTuple):
    """All that a worker needs to make rollouts of one run.

    Attributes:
        config: The run's settings, its threads included.
        synset: The set at outer step 0, on the CPU.
        source: The experts that take part; it is sent as where it lies, not as its bytes.
    """

    config: DistillConfig
    synset: SyntheticSet
    source: TrajectorySource | None


Spread = Callable[[Task], Rolls]
"""Has others make the rollouts of a run."""


class Roller:
    """Makes rollouts of one run, in a worker.

    Args:
        task: The run.
        device: Where this worker computes.
    """

    def __init__(self, task: Task, device: str) -> None:
        self._threads = task.config.threads or 1
        torch.set_num_threads(self._threads)
        keep_memory()
        work = open_workspace(
            task.config.data, task.config.experts.network, resolve_device(device), task.synset.transform
        )
        recipe = METHODS[task.config.method](Setup(task.config, work, task.source, task.synset))
        self._matcher = Matcher(recipe.objective, recipe.synset, task.config.seed)

    def ready(self) -> bool:
        """Whether rollouts can be made: it has been built."""
        return True

    def roll(self, leaves: Arrays, step: int, attempt: int, index: int) -> tuple[float, list[np.ndarray[Any, Any]]]:
        """One rollout's loss and gradients, as `raydd.distillation.rollouts.Matcher` makes them."""
        torch.set_num_threads(self._threads)  # of each thread that calls
        tensors = {name: torch.tensor(leaf) for name, leaf in leaves.items()}
        loss, gradients = self._matcher(tensors, step, attempt, index)
        return loss, [gradient.cpu().numpy() for gradient in gradients]


def rolls_of(setup: Setup, recipe: Recipe, spread: Spread | None) -> Rolls | None:
    """Who makes the rollouts of a run: None where a step matches once, which the loop does by itself.

    Args:
        setup: What the method was given.
        recipe: What it made of it.
        spread: Has others make them; None makes them here, one after another, to the same bits.
    """
    config = setup.config
    if spread is not None:
        return spread(Task(config, recipe.synset.to("cpu"), setup.source))
    if config.rollouts == 1:
        return None
    return in_turn(Matcher(recipe.objective, recipe.synset, config.seed), config.rollouts)
