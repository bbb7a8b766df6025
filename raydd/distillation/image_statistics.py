"""Statistics of images through a network, which synthetic images share with real ones.

Shapes: `B` batch, `C H W` image, `F` features, `P` parameters, `K` classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from raydd.distillation.network_sources import loss_gradient
from raydd.numerics.flat import FlatModel

Statistic = Callable[[FlatModel, Tensor, Tensor, Tensor], Tensor]
"""(network, theta (P,), images (B, C, H, W), labels (B,) or (B, K)) -> what is compared."""


def features(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the input of the last layer, (B, F)."""
    return model.features(theta, images)


def layers(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the features of every layer, concatenated, (B, F)."""
    return torch.cat(model.layers(theta, images), dim=1)


def unit_features(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the input of the last layer, of length 1 for every image, (B, F)."""
    return normalize(model.features(theta, images), dim=1)


def attention(model: FlatModel, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Return the attention maps of all layers but the last, and the logits, concatenated, (B, F).

    The attention of a layer is the sum over its channels of |a|, as a vector of length 1. Squared distances of these
    count `ATTENTION`, those of the logits a hundredth of it.

    Reference: Sajedi et al., arXiv 2310.00093 (DataDAM), with the weights of its official code.
    """
    *maps, _ = model.maps(theta, images)
    vectors = [ATTENTION**0.5 * normalize(each.abs().sum(1).flatten(1), dim=1) for each in maps if each.ndim == 4]
    return torch.cat([*vectors, (0.01 * ATTENTION) ** 0.5 * model(theta, images)], dim=1)


ATTENTION = 100.0
STATISTICS: dict[str, Statistic] = {
    "features": features,
    "layers": layers,
    "unit_features": unit_features,
    "attention": attention,
    "gradient": loss_gradient,
}
"""By the name of ``statistic.of``."""


@dataclass(frozen=True)
class History:
    """The squared distance of a class's mean features from their running mean over the steps before.

    weight |mean_s - h|^2 / F, from step ``begin`` on; then h <- decay h + (1 - decay) mean_s.

    Reference:
        Li et al., 2024 (DSDM), its semantic diversity by historical means, with the values of its official code.
    """

    weight: float
    begin: int
    decay: float = 0.99

    def __call__(self, current: Tensor, past: Tensor | None, step: int) -> tuple[Tensor, Tensor]:
        """Return the term for features (B, F) of a class, and the running mean (F,) after them."""
        mean = current.mean(0)
        if past is None:
            return current.sum() * 0, mean.detach()
        past = past.to(mean)
        loss = self.weight * (mean - past).square().mean() if step >= self.begin else current.sum() * 0
        return loss, self.decay * past + (1 - self.decay) * mean.detach()
