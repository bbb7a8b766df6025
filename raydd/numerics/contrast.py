"""How alike embeddings of images are.

Shapes: `B` pairs of images, `V` images, `F` features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07
"""Of the supervised contrast, as Khosla et al. have it."""


def similarity(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the mean of (cos(a_i, b_i) + 1) / 2 over pairs of rows, a scalar from 0 to 1.

    Args:
        first: (B, F).
        second: (B, F).

    Reference: Liu et al., arXiv 2210.16774 (HaBa), section 3.3, in the form of its official code.

    >>> a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> similarity(a, a).item(), similarity(a, -a).item()
    (1.0, 0.0)
    """
    return ((F.cosine_similarity(first, second, dim=1) + 1) / 2).mean()


def supervised_contrast(features: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    r"""Return the supervised contrastive loss, a scalar in nats.

    L = -mean_i 1 / |P(i)| sum_{p in P(i)} log(exp(z_i . z_p / tau) / sum_{a != i} exp(z_i . z_a / tau)),

    where z are the features divided by their length, and P(i) the other images of the class of i.

    Args:
        features: (V, F).
        labels: (V,) classes; each is there twice or more.
        temperature: tau.

    Reference: Khosla et al., arXiv 2004.11362, Eq. 2.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> round(supervised_contrast(features, torch.tensor([0, 0, 1, 1]), 1.0).item(), 4)
    0.5514
    """
    unit = F.normalize(features, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    logs = torch.log_softmax(logits, dim=1).masked_fill(itself, 0.0)
    alike = ((labels[:, None] == labels[None]) & ~itself).to(logs)
    return -((alike * logs).sum(1) / alike.sum(1)).mean()
