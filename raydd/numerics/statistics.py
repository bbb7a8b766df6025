"""Distances between a statistic of synthetic images and that of real ones.

A statistic is a batch of features or a gradient; a `Distance` takes the real one first. Gradients flow to both, and are
finite where the two agree.

Shapes: `B` real and `B'` synthetic images, `F` features, `P` parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.numerics.flat import Layout, split

Distance = Callable[[Tensor, Tensor], Tensor]
"""(statistic of real images, statistic of synthetic images) -> scalar."""

EPSILON = 1e-6  # beside the norms in the denominator of a cosine
TINY = 1e-12  # below a root
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


def covariances(real: Tensor, syn: Tensor, weight: float = 50.0) -> Tensor:
    r"""Return |mean r - mean s|^2 + weight |cov r - cov s|_F^2 / F of features r (B, F) and s (B', F).

    Covariances are means over the images of a side, so that a single image has the covariance 0.

    Reference: Li et al., 2024 (DSDM), its mean and covariance terms, with the weights of its official code.
    """
    gap = _covariance(real) - _covariance(syn)
    return means(real, syn) + weight * gap.square().sum() / real.shape[1]


def _covariance(points: Tensor) -> Tensor:
    centred = points - points.mean(0)
    return centred.T @ centred / len(points)


def squared(real: Tensor, syn: Tensor, layout: Layout) -> Tensor:
    """Return the squared distance of the gradients of all convolutions' weights; real and syn are (P,).

    Of a network without convolutions all weights count that have two axes or more.

    Reference: Kim et al., arXiv 2205.14959 (IDC), its distance for CIFAR and SVHN.
    """
    ours, theirs = split(syn, layout), split(real, layout)
    axes = 4 if any(tensor.ndim == 4 for tensor in ours.values()) else 2
    gaps = [(ours[name] - theirs[name]).square().sum() for name in ours if ours[name].ndim >= axes]
    return torch.stack(gaps).sum() if gaps else (real * 0 + syn * 0).sum()


@dataclass(frozen=True)
class Characteristic:
    r"""The distance of characteristic functions at random frequencies, which are drawn for each class and step.

    Phi(t) = mean_i exp(i <t, f_i>) for t ~ N(0, I). With the amplitudes |Phi| and a = ``amplitude``, the distance is

        scale * mean_t sqrt(a (|Phi_r| - |Phi_s|)^2 + 2 (1 - a) (|Phi_r| |Phi_s| - Re(Phi_r conj Phi_s))).

    Attributes:
        frequencies: How many t.
        amplitude: a; the rest weighs the phases.
        scale: The factor.

    Reference: Wang et al., arXiv 2502.20653 (NCFM), and its official code, whose values these are.
    Differs: The paper has 1,024 frequencies, its code 4,096, and a sampler of them that all its settings switch off.
    """

    frequencies: int = 4096
    amplitude: float = 0.5
    scale: float = 300.0

    def draw(self, features: int, rng: torch.Generator) -> Distance:
        """Return the distance at frequencies drawn for so many features."""
        drawn = torch.randn(features, self.frequencies, generator=rng)
        return lambda real, syn: self(real, syn, drawn)

    def __call__(self, real: Tensor, syn: Tensor, frequencies: Tensor) -> Tensor:
        """Return the distance of features (B, F) and (B', F) at frequencies (F, T), a scalar."""
        frequencies = frequencies.to(real)
        ours, theirs = (_characteristic(points @ frequencies) for points in (syn, real))
        amplitudes = (ours[2] - theirs[2]).square()
        phases = 2 * (ours[2] * theirs[2] - ours[0] * theirs[0] - ours[1] * theirs[1])
        gaps = self.amplitude * amplitudes + (1 - self.amplitude) * phases
        return self.scale * gaps.clamp(min=TINY).sqrt().mean()


def _characteristic(angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return real part, imaginary part and amplitude (T,) of the characteristic function of angles (B, T)."""
    first, second = angles.cos().mean(0), angles.sin().mean(0)
    return first, second, (first.square() + second.square() + TINY).sqrt()


def _squared_distances(points: Tensor) -> Tensor:
    """|x_i - x_j|^2 (n, n) of points (n, F), without a root, so that its gradient is finite at 0."""
    norms = points.square().sum(1)
    return (norms[:, None] + norms[None] - 2 * points @ points.T).clamp(min=0)
