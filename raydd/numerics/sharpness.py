"""The sharpness-aware gradient of FTD's experts: perturb the weights uphill, then combine two gradients.

Every list has one tensor a parameter of the network, in one order. Norms and inner products are over all of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def perturbation(parameters: Sequence[Tensor], gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    r"""Return the adaptive step uphill, e = rho p^2 g / ||p| g|, elementwise but for the norm; 0 where |p| g is 0.

    p are the weights, g the loss's gradient there, and rho is the size of the step relative to the weights.

    Reference: Kwon et al., arXiv 2102.11600, in the form of Zhuang et al., arXiv 2203.08065, with which Du et al.,
        arXiv 2211.11004, train experts.

    >>> p, g = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 2.0])]
    >>> perturbation(p, g, rho=0.5)  # |p| g = (3, 4), of norm 5
    [tensor([0.3000, 0.8000])]
    """
    scale = rho * _inverse(_norm([p.abs() * g for p, g in zip(parameters, gradients, strict=True)]))
    return [p.square() * g * scale for p, g in zip(parameters, gradients, strict=True)]


def surrogate(clean: Sequence[Tensor], adversarial: Sequence[Tensor], alpha: float) -> list[Tensor]:
    r"""Return the gradient to follow, g_adv - alpha g_perp, with g_perp = g - (<g, g_adv> / |g_adv|^2) g_adv.

    g_perp is the part of the clean gradient that is orthogonal to the adversarial one: a step up along it lowers the
    gap between the perturbed loss and the loss, and does not change the perturbed loss. All of g is orthogonal to 0.
    ``clean`` is g at the weights, ``adversarial`` g_adv at the perturbed weights; alpha = 0 is SAM.

    Reference: Zhuang et al., arXiv 2203.08065, Algorithm 1; Du et al., arXiv 2211.11004.

    >>> surrogate([torch.tensor([1.0, 1.0])], [torch.tensor([0.0, 2.0])], alpha=0.5)
    [tensor([-0.5000,  2.0000])]
    """
    scale = _inverse(_norm(adversarial))
    along = torch.stack([(g * (a * scale)).sum() for g, a in zip(clean, adversarial, strict=True)]).sum()
    return [a - alpha * (g - along * (a * scale)) for g, a in zip(clean, adversarial, strict=True)]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))
    return norm


def _inverse(norm: Tensor) -> Tensor:
    """Return 1 / norm, and 0 for 0, without waiting for the device."""
    return torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))
