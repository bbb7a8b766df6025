"""Inversion: an expert classifies the synthetic images, and its batch norm sees in them what it saw in real ones.

Shapes: `N` synthetic images, `C H W` image, `P` parameters, `Q` running statistics.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raydd.buffer.expert_model import statistics_of
from raydd.buffer.segments import TrajectorySource
from raydd.data.synset import SyntheticSet
from raydd.distillation.setup import Recipe, Setup, initial, leaves
from raydd.distillation.trajectory_matching import label_by_experts
from raydd.numerics.augment import Augment, augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import moved


@dataclass(frozen=True)
class Inversion:
    r"""The cross-entropy of an expert on the synthetic images, and the distance of its batch norm's statistics.

    CE(f(A(S)), y) + weight sum_l (|mean_l - m_l| + |var_l - v_l|),

    where m_l and v_l are the running statistics of batch norm l after the expert's last epoch, and mean_l and var_l
    those of its input on the synthetic images. The expert is drawn every step.

    Attributes:
        model: The network, which has batch norm.
        source: The experts.
        statistics: Returns the running statistics (Q,) of an expert.
        augment: A, drawn every step.
        weight: Of the distance.
        batch_size: Synthetic images a step; None takes all.

    Reference:
        Yin et al., arXiv 2306.13092 (SRe2L), Eq. 6 to 8.
    """

    parts: ClassVar[int] = 1
    joint: ClassVar[bool] = False
    model: FlatModel
    source: TrajectorySource
    statistics: Callable[[int], Tensor]
    augment: Augment
    weight: float
    batch_size: int | None = None

    def init(self, rng: torch.Generator) -> None:
        """Carry no state from step to step."""

    def loss(
        self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, None]:
        """Return the loss of one expert, a scalar; all draws come from ``rng``."""
        expert = self.source.experts[int(torch.randint(len(self.source.experts), (), generator=rng))]
        seen = synset.decoded()
        images, targets = seen.images, seen.targets
        if self.batch_size is not None and self.batch_size < len(images):
            rows = moved(torch.randperm(len(images), generator=rng)[: self.batch_size], images.device)
            images, targets = images[rows], targets[rows]
        theta = self.source.snapshot(expert, self.source.epochs).to(images)
        view = self.augment.draw(images.shape, rng)
        logits, norms = self.model.norm_inputs(theta, view(images), self.statistics(expert))
        loss = cross_entropy(logits, targets)
        for inputs, mean, variance in norms:
            axes = [axis for axis in range(inputs.ndim) if axis != 1]
            loss = loss + self.weight * (inputs.mean(axes) - mean).norm()
            loss = loss + self.weight * (inputs.var(axes, correction=0) - variance).norm()
        return loss, state


def invert(setup: Setup) -> Recipe:
    """Return the recipe of inversion, whose result has soft labels of the experts."""
    config, work, model = setup.config, setup.work, setup.model()
    chosen, source, start = config.statistic, setup.experts, initial(setup)
    objective = Inversion(
        model=model,
        source=source,
        statistics=lambda expert: statistics_of(source, model.statistics_layout, expert, source.epochs),
        augment=augment(chosen.augment, flip=work.dataset.flip, strategy=chosen.strategy),
        weight=chosen.alpha,
        batch_size=config.batch_size,
    )
    finish = label_by_experts(setup)
    return Recipe(objective, start, leaves(config, start.transform), config.gate, config.ema, finish)
