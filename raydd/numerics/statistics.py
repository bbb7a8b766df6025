"""Distances between a statistic of synthetic images and that of real ones.

A statistic is a batch of features or a gradient; a `Distance` takes the real one first. Gradients flow to both, and are
finite where the two agree.

Shapes: `B` real and `B'` synthetic images, `F` features, `P` parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raydd.numerics.flat import Layout, split

Distance = Callable[[Tensor, Tensor], Tensor]
"""(statistic of real images, statistic of synthetic images) -> scalar."""

EPSILON = 1e-6  # beside the norms in the denominator of a cosine
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the Gaussian kernels, as multiples of the mean distance


def means(real: Tensor, syn: Tensor) -> Tensor:
    r"""Return |mean_i r_i - mean_j s_j|^2 over features, the squared maximum mean discrepancy under a linear kernel.

    The features are r (B, F) of real and s (B', F) of synthetic images.

    Reference: arXiv 2512.02469 (TGDD), Eq. 2, which is that of DM (arXiv 2110.04181), and Eq. 4 for one class.

    >>> means(torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([[1.0, 5.0]])).item()
    9.0
    """
    return (real.mean(0) - syn.mean(0)).square().sum()


def cosine(real: Tensor, syn: Tensor, layout: Layout) -> Tensor:
    r"""Return the sum over layers and output units i of 1 - <A_i, B_i> / (|A_i| |B_i| + 1e-6).

    A_i and B_i are two gradients of one output unit's weights: the rows of a tensor (out, in) or (out, in, h, w) of the
    layout of A (P,), the real one, and B (P,), the synthetic one.

    Reference: Zhao, Mopuri & Bilen, arXiv 2006.05929 (DC), the gradient matching loss; arXiv 2102.08259 (DSA).
    Differs: The paper groups the weights of linear and convolutional layers by output unit. The rest is as in its code:
        tensors of one axis (biases, scales, shifts) do not count, those of three (layer norm) are rows by their first
        axis, and 1e-6 is in the denominator.

    >>> from raydd.numerics.flat import Slot
    >>> layout = (Slot("weight", (2, 2), 0), Slot("bias", (1,), 4))
    >>> a, b = torch.tensor([1.0, 0.0, 3.0, 4.0, 1.0]), torch.tensor([0.0, 2.0, 6.0, 8.0, -1.0])
    >>> round(cosine(a, b, layout).item(), 4)  # a right angle, and the same direction
    1.0
    """
    ours, theirs = split(syn, layout), split(real, layout)
    gaps = [_angles(theirs[name], ours[name]) for name in ours if ours[name].ndim > 1]
    return torch.stack(gaps).sum() if gaps else (real * 0 + syn * 0).sum()


def _angles(real: Tensor, syn: Tensor) -> Tensor:
    a, b = real.flatten(1), syn.flatten(1)
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (1 - (a * b).sum(1) / (norms + EPSILON)).sum()


def gaussian(real: Tensor, syn: Tensor, bandwidths: tuple[float, ...] = BANDWIDTHS) -> Tensor:
    r"""Return the squared maximum mean discrepancy under Gaussian kernels: E k(r, r') + E k(s, s') - 2 E k(r, s).

    k(x, y) = sum_m exp(-|x - y|^2 / (m d)), where d is the mean squared distance of all pairs among real and synthetic
    features r (B, F) and s (B', F), without gradient, and m are the bandwidths. Expectations are means over all pairs,
    those of a point with itself too.

    Reference: Zhang et al., arXiv 2312.15927 (M3D).
    Differs: The paper's public descriptions name no bandwidth. The five bandwidths, the mean distance and the means
        over all pairs are those of the loss of the paper's name in later public code, where they always are the same.

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> gaussian(x, x.flip(0)).item()
    0.0
    """
    points = torch.cat([real, syn])
    gaps = _squared_distances(points - real.detach().mean(0))
    count = len(points)
    scale = gaps.detach().sum() / (count * (count - 1))
    scale = torch.where(scale > 0, scale, 1)
    kernel = torch.stack([torch.exp(-gaps / (factor * scale)) for factor in bandwidths]).sum(0)
    weights = torch.cat([points.new_full((len(real),), 1 / len(real)), points.new_full((len(syn),), -1 / len(syn))])
    return weights @ kernel @ weights


def _squared_distances(points: Tensor) -> Tensor:
    """|x_i - x_j|^2 (n, n) of points (n, F), without a root, so that its gradient is finite at 0."""
    norms = points.square().sum(1)
    return (norms[:, None] + norms[None] - 2 * points @ points.T).clamp(min=0)
