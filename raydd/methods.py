"""The methods, each a composition of the parts below. The only file that knows their names.

A method is a function from a `Setup` to a `Recipe`, and one row of `METHODS`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raydd.config import DistillConfig
from raydd.data.initial import INITIAL
from raydd.data.synset import SyntheticSet
from raydd.data.trajectory import TrajectorySource
from raydd.distill.loop import Leaf, Objective
from raydd.distill.trajectory import TrajectoryMatching
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.unroll import Inner
from raydd.numerics.windows import fixed
from raydd.workspace import Workspace


class Setup(NamedTuple):
    """What a method is given.

    Attributes:
        config: The run's settings.
        work: Data set, preprocessing, network, device.
        source: The experts' trajectories.
    """

    config: DistillConfig
    work: Workspace
    source: TrajectorySource


class Recipe(NamedTuple):
    """What a method makes of it: all that the loop needs.

    Attributes:
        objective: What the synthetic set must match.
        synset: Where it starts.
        learn: Which of images, labels and lr are learned, and how.
        gate: Step only when the loss is at most this.
        ema: Decay of the running mean of the images that is the result.
    """

    objective: Objective[Any]
    synset: SyntheticSet
    learn: dict[str, Leaf]
    gate: float | None = None
    ema: float | None = None


def mtt(setup: Setup) -> Recipe:
    """Dataset Distillation by Matching Training Trajectories.

    Students start where an expert stood at a random epoch of the window, take S steps of SGD on the
    synthetic images, and shall arrive where the expert was M epochs later. Images and the students'
    step size are learned.

    Reference:
        Cazenavette et al., arXiv 2203.11932, Algorithm 1.

    Differs:
        The gradient is exact but found by an adjoint sweep (``backprop: full`` is the original); the step
        size is clamped to at least a hundredth of its start, where the official code lets it turn
        negative; official start epochs leave the window's upper end out.
    """
    config = setup.config
    objective = TrajectoryMatching(
        source=setup.source,
        inner=classification(setup.work),
        window=fixed(*start_window(config, setup.source.epochs)),
        span=config.span,
        student_steps=config.student_steps,
        batch_size=config.batch_size,
        augment=setup.work.augment,
        backprop=config.backprop,
    )
    return Recipe(objective, initial(setup), sgd_leaves(config), config.gate, config.ema)


def classification(work: Workspace) -> Inner:
    """The student's loss: mean cross-entropy of the network at theta."""
    model = FlatModel(work.build)

    def inner(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(theta, x), y)

    return inner


def start_window(config: DistillConfig, epochs: int) -> tuple[int, int]:
    """T- and T+ as configured; T+ is else the last epoch of the experts that leaves room for a segment."""
    high = epochs - config.span if config.window.high is None else config.window.high
    return config.window.low, high


def initial(setup: Setup) -> SyntheticSet:
    """The set at outer step 0: images as ``config.initial`` says, and the students' first step size."""
    config, work = setup.config, setup.work
    rng = generator(config.seed, "initial")
    images, labels = INITIAL[config.initial](work.dataset, work.transform, config.ipc, rng)
    return SyntheticSet(
        images=images,
        labels=labels,
        lr=torch.tensor(config.lr.start),
        transform=work.transform,
        dataset=work.dataset.name,
        classes=work.dataset.classes,
    ).to(work.device)


def sgd_leaves(config: DistillConfig) -> dict[str, Leaf]:
    """Images, and the students' step size unless its own step size is 0, by SGD with momentum."""
    leaves = {"images": Leaf(config.lr.images, config.lr.momentum)}
    if config.lr.lr:
        leaves["lr"] = Leaf(config.lr.lr, config.lr.momentum)
    return leaves


METHODS: dict[str, Callable[[Setup], Recipe]] = {"mtt": mtt}
