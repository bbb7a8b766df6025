"""Kernel regression: ridge regression on the synthetic set must predict the labels of real images.

Shapes: `N` synthetic images, `B` batch, `C H W` image, `F` features, `P` parameters, `K` classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.distillation.implicit_gradient import ImplicitGradient
from raydd.distillation.network_pool import Pool, centred, targets_of
from raydd.distillation.objective import Objective
from raydd.distillation.real_images import RealImages
from raydd.distillation.setup import Recipe, Setup, initial, leaves
from raydd.numerics.augment import Augment, augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.kernels import linear, ridge, tangent
from raydd.numerics.losses import label_margin, squared_error


@dataclass(frozen=True)
class KernelRegression:
    r"""Half the mean squared error of kernel ridge regression from the synthetic set to real images.

    L = 1/2 mean |K_ts (K_ss + lambda I)^-1 y_s - y_t|^2, with the labels y one-hot less 1 / K. Those of the synthetic
    set may be learned from there; with a pool, their margin is taken off the loss then: by how much the largest target
    of an image is above the next one, at most 1 / K.

    Attributes:
        real: Draws real images (B, C, H, W) and classes (B,).
        batch_real: Real images a step.
        classes: K.
        augment: The views of real and of synthetic images, drawn apart; none of pixels' kernel.
        regularisation: lambda over the mean of the diagonal of K_ss.
        pool: The networks whose features make the kernel, which is linear in them; None takes ``depth``.
        depth: Hidden layers of the network of infinite width whose tangent kernel, of pixels in float64, is taken.

    Reference:
        Nguyen et al., arXiv 2011.00050 and 2107.13034 (KIP); Zhou et al., arXiv 2206.00719 (FRePo).
    """

    parts: ClassVar[int] = 1
    joint: ClassVar[bool] = False
    real: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    batch_real: int
    classes: int
    augment: Augment
    regularisation: float
    pool: Pool | None
    depth: int = 3

    def init(self, rng: torch.Generator) -> dict[str, Any]:
        """Return the networks of the pool."""
        return self.pool.init(rng) if self.pool else {}

    def loss(
        self, synset: SyntheticSet, state: dict[str, Any], step: int, rng: torch.Generator, part: int = 0
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss on a real batch, a scalar, and the networks after the step; all draws come from ``rng``."""
        seen = synset.decoded()
        targets = targets_of(seen, self.classes)
        images, labels = self.real(self.batch_real, rng)
        images, wanted = images.to(seen.images), centred(labels, self.classes).to(seen.images)
        images = self.augment.draw(images.shape, rng)(images)
        ours = self.augment.draw(seen.images.shape, rng)(seen.images)
        if self.pool is None:
            return self._error(images.flatten(1).double(), ours.flatten(1).double(), targets, wanted), state
        name = self.pool.draw(state, rng)
        theta = state[name]["theta"].to(ours)
        with torch.no_grad():
            features = self.pool.model.run(FlatModel.features, theta, images)
        loss = self._error(features, self.pool.model.run(FlatModel.features, theta, ours), targets, wanted)
        if synset.regression:
            loss = loss - label_margin(synset.labels, 1 / self.classes)
        used = self.pool.use(state[name], ours.detach(), targets.detach(), rng)
        return loss, state | {name: used}

    def _error(self, real: Tensor, ours: Tensor, targets: Tensor, wanted: Tensor) -> Tensor:
        kernel = linear if self.pool else self._tangent
        guess = ridge(kernel(real, ours), kernel(ours, ours), targets.to(ours), self.regularisation)
        return squared_error(guess, wanted.to(guess)).to(targets)

    def _tangent(self, x: Tensor, y: Tensor) -> Tensor:
        return tangent(x, y, self.depth)


def match_kernel(setup: Setup) -> Recipe:
    """Return the recipe of kernel regression, or of implicit gradients where ``kernel.of`` is linearised."""
    config, start = setup.config, initial(setup)
    objective = _implicit(setup) if config.kernel.of == "linearised" else _regression(setup)
    return Recipe(objective, start, leaves(config, start.transform), config.gate, config.ema)


def _regression(setup: Setup) -> Objective[Any]:
    work, chosen = setup.work, setup.config.kernel
    pool = _pool(setup) if chosen.of == "features" else None
    return KernelRegression(
        real=RealImages(work.feed(work.dataset.train)).mixed,
        batch_real=chosen.batch_real,
        classes=len(work.dataset.classes),
        augment=work.augment if pool else augment("none"),
        regularisation=chosen.regularisation,
        pool=pool,
        depth=chosen.depth,
    )


def _implicit(setup: Setup) -> Objective[Any]:
    work, chosen = setup.work, setup.config.kernel
    return ImplicitGradient(
        real=RealImages(work.feed(work.dataset.train)).mixed,
        batch_real=chosen.batch_real,
        classes=len(work.dataset.classes),
        regularisation=chosen.regularisation,
        pool=_pool(setup),
        steps=chosen.solver_steps,
        mirror=chosen.mirror and work.dataset.flip,
    )


def _pool(setup: Setup) -> Pool:
    chosen = setup.config.kernel
    return Pool(setup.model(), chosen.pool, chosen.renew, chosen.lr, chosen.pool_steps)
