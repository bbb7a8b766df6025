"""Kernels between images, and ridge regression with them.

Shapes: `B` and `n` images, `F` features, `K` classes.
"""

import torch
from torch import Tensor

EDGE = 1e-12
"""How near to 1 a cosine counts as 1, where the derivative of its angle is infinite."""


def linear(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner products (B, n) of features x (B, F) and y (n, F)."""
    return x @ y.T


def tangent(x: Tensor, y: Tensor, depth: int = 3) -> Tensor:
    r"""Return the neural tangent kernel (B, n) of a fully connected ReLU network of infinite width.

    Each of ``depth`` hidden layers turns the covariance s and the tangent kernel q of two inputs, whose cosine is c and
    angle a = arccos c, into

        s <- |x| |y| (sin a + (pi - a) c) / pi,  q <- s + q (pi - a) / pi,

    beginning with s = q = <x, y> / F.

    Args:
        x: (B, F).
        y: (n, F); both are better in float64.
        depth: Hidden layers.

    Reference: Jacot et al., arXiv 1806.07572; Cho & Saul, 2009, for the two expectations.
    """
    x, y = x / x.shape[1] ** 0.5, y / y.shape[1] ** 0.5
    scale = x.norm(dim=1)[:, None] * y.norm(dim=1)[None]
    covariance = kernel = x @ y.T
    for _ in range(depth):
        cosine = (covariance / scale.clamp(min=EDGE)).clamp(-1 + EDGE, 1 - EDGE)
        angle = torch.arccos(cosine)
        covariance = scale * (torch.sin(angle) + (torch.pi - angle) * cosine) / torch.pi
        kernel = covariance + kernel * (torch.pi - angle) / torch.pi
    return kernel


def ridge(across: Tensor, within: Tensor, labels: Tensor, ridge: float) -> Tensor:
    r"""Return the predictions (B, K) of ridge regression: K_ts (K_ss + lambda I)^-1 y, lambda = ridge tr(K_ss) / n.

    Args:
        across: K_ts (B, n).
        within: K_ss (n, n).
        labels: y (n, K).
        ridge: Regularisation, as a part of the kernel's mean diagonal.

    Reference: Nguyen et al., arXiv 2011.00050 (KIP); Zhou et al., arXiv 2206.00719 (FRePo), which takes the same.
    """
    count = len(within)
    system = within + ridge * within.diagonal().sum() / count * torch.eye(count).to(within)
    predictions: Tensor = across @ torch.linalg.solve(system, labels)
    return predictions
