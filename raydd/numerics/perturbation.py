"""Random changes of weights, in proportion to the norm of each filter."""

import torch
from torch import Tensor

from raydd.numerics.flat import Layout, split


def perturb(layout: Layout, rho: float, theta: Tensor, rng: torch.Generator) -> Tensor:
    r"""Return theta + rho d, where every filter of d has the norm of theta's: d_j <- d_j |theta_j|_F / |d_j|_F.

    d is drawn from N(0, 1). A filter has the weights of one output of a convolution or linear layer: the first index of
    a tensor of two dimensions or more. Biases and the weights of norms do not change: they have one number an output,
    and d would be plus or minus that number.

    theta is (P,); rho is the size of the change relative to a filter, and 0 returns theta itself. d is drawn in
    float32, in the layout's order.

    Raises:
        ValueError: theta does not have the layout's number of parameters.

    Reference: arXiv 2310.10541 (AST), Eq. 23; filter-wise normalisation of Li et al., arXiv 1712.09913, section 4.
    Differs: The official code takes whole layers, d * theta elementwise, and rho = 1.

    >>> from raydd.numerics.flat import Slot
    >>> layout = (Slot("weight", (1, 2), 0), Slot("bias", (1,), 2))
    >>> theta = torch.tensor([3.0, 4.0, 7.0])
    >>> change = perturb(layout, 0.1, theta, torch.Generator().manual_seed(0)) - theta
    >>> round(change[:2].norm().item(), 4), change[2].item()
    (0.5, 0.0)
    """
    if rho == 0:
        return theta
    return torch.cat([_moved(tensor, rho, rng).flatten() for tensor in split(theta, layout).values()])


def _moved(tensor: Tensor, rho: float, rng: torch.Generator) -> Tensor:
    if tensor.ndim < 2:
        return tensor
    filters = tensor.flatten(1)
    d = torch.randn(filters.shape, generator=rng, dtype=torch.float32).to(filters)
    return filters + rho * d * (_lengths(filters) / _lengths(d))


def _lengths(filters: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(filters, dim=1, keepdim=True)
    return lengths
