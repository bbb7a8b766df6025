"""A pool of networks of many ages, trained on the synthetic set while it is learned.

Shapes: `N` synthetic images, `C H W` image, `P` parameters, `K` classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from raydd.data.synset import SyntheticSet
from raydd.numerics.adam import Moments, adam_step, begin
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import squared_error


def centred(labels: Tensor, classes: int) -> Tensor:
    """Return labels (n,) or (n, K) as regression targets (n, K): probabilities less 1 / K, in float32."""
    probabilities = one_hot(labels, classes) if labels.ndim == 1 else labels
    return probabilities.float() - 1 / classes


def targets_of(synset: SyntheticSet, classes: int) -> Tensor:
    """Return the regression targets (N, K) of a set: its labels where they are learned as such, or centred ones."""
    targets = synset.targets if synset.regression else centred(synset.targets, classes)
    return targets.to(synset.images)


@dataclass(frozen=True)
class Pool:
    """Networks of many ages, trained on the synthetic set, one of which is used in an outer step.

    After an outer step the network that was used takes steps of Adam on the mean squared error of its logits from the
    centred labels of the set, and a fresh one takes its place after ``renew`` steps.

    Attributes:
        model: The network.
        size: How many there are; each has three times its parameters in every checkpoint.
        renew: Steps after which one is exchanged.
        lr: Learning rate of its steps.
        steps: The most steps after a use, whose number is uniform from 1.

    Reference:
        Zhou et al., arXiv 2206.00719 (FRePo), its model pool, of one step a use; Loo et al., arXiv 2302.06755 (RCIG).
    """

    model: FlatModel
    size: int
    renew: int
    lr: float
    steps: int = 1

    def init(self, rng: torch.Generator) -> dict[str, Any]:
        """Return fresh networks."""
        return {str(name): self._fresh(rng) for name in range(self.size)}

    def draw(self, networks: dict[str, Any], rng: torch.Generator) -> str:
        """Return the name of one of the networks, uniform."""
        return str(int(torch.randint(self.size, (), generator=rng)))

    def use(self, network: dict[str, Any], images: Tensor, targets: Tensor, rng: torch.Generator) -> dict[str, Any]:
        """Return a network after its use: trained on images (N, C, H, W) with targets (N, K), or a fresh one."""
        steps = 1 if self.steps == 1 else int(torch.randint(1, self.steps + 1, (), generator=rng))
        if network["steps"] + steps >= self.renew:
            return self._fresh(rng)
        theta, first, second = (network[name].to(images) for name in ("theta", "first", "second"))
        at = Moments(theta, first, second, network["steps"])
        for _ in range(steps):
            at = self._step(at, images, targets)
        return {name: value.detach() if isinstance(value, Tensor) else value for name, value in at._asdict().items()}

    def _step(self, at: Moments, images: Tensor, targets: Tensor) -> Moments:
        theta = at.theta.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.model.run(_regression, theta, images, targets, scalar=True)
            (gradient,) = torch.autograd.grad(loss, theta)
        return adam_step(at, gradient, torch.tensor(self.lr).to(images))

    def _fresh(self, rng: torch.Generator) -> dict[str, Any]:
        return begin(self.model.init(rng))._asdict()


def _regression(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    return squared_error(model(theta, images), targets)
