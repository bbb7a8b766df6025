"""A network's first-order change around its weights, and linear systems of such changes.

Shapes: `B` batch, `C H W` image, `F` features, `P` parameters, `K` classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raydd.numerics.flat import FlatModel


class Linearised:
    """The Jacobian J (B K, P) of a network's logits in its body's weights, at one theta and on one batch of images.

    It is never built. Products with it go back through two gradients, since not every layer has a forward derivative;
    the graph of the first is kept.

    Args:
        model: The network.
        theta: Its weights (P,), a constant.
        x: Images (B, C, H, W), a constant.
        body: 1 for weights of the body and 0 for others, (P,).

    >>> model = FlatModel(lambda: torch.nn.Linear(3, 2))
    >>> theta, x = model.init(torch.Generator().manual_seed(0)), torch.ones(5, 3)
    >>> change = Linearised(model, theta, x, torch.ones(8)).change(torch.ones(8))
    >>> torch.equal(change, torch.full((5, 2), 4.0))
    True
    """

    def __init__(self, model: FlatModel, theta: Tensor, x: Tensor, body: Tensor) -> None:
        self._body = body
        with torch.enable_grad():
            self._x, self._theta = x.detach().requires_grad_(), theta.detach().requires_grad_()
            self._logits = model(self._theta, self._x)
            self._cotangent = torch.zeros_like(self._logits, requires_grad=True)
            self._pulled = self._pull(self._cotangent)

    def _pull(self, cotangent: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(self._logits, self._theta, cotangent, create_graph=True)
        return pulled * self._body

    def change(self, direction: Tensor) -> Tensor:
        """Return J v (B, K), the change of the logits along a direction v (P,)."""
        (change,) = torch.autograd.grad(self._pulled, self._cotangent, direction, retain_graph=True)
        return change

    def pull(self, cotangent: Tensor) -> Tensor:
        """Return J^T c (P,) of a cotangent c (B, K) of the logits."""
        (pulled,) = torch.autograd.grad(self._logits, self._theta, cotangent, retain_graph=True)
        return pulled * self._body

    def slope(self, direction: Tensor, cotangent: Tensor) -> Tensor:
        """Return the gradient of <c, J v> in the images, (B, C, H, W), for constants v (P,) and c (B, K)."""
        with torch.enable_grad():
            product = self._pull(cotangent) @ direction
        (slope,) = torch.autograd.grad(product, self._x, retain_graph=True)
        return slope


def body_mask(model: FlatModel, features: int, classes: int) -> Tensor:
    """Return 1 for every weight but those of the last linear layer's matrix (K, F), and 0 for these, (P,), float32.

    Raises:
        ValueError: The network has no such layer.
    """
    heads = [slot for slot in model.layout if slot.shape == (classes, features)]
    if not heads:
        raise ValueError(
            f"the network has no linear layer from its {features} features to {classes} classes, which is solved apart "
            "from its body; use a network such as ConvNet"
        )
    mask = torch.ones(model.size)
    mask[heads[-1].offset : heads[-1].offset + heads[-1].numel] = 0
    return mask


def conjugate_gradients(apply: Callable[[Tensor], Tensor], target: Tensor, steps: int) -> Tensor:
    """Return an approximate solution x (P,) of A x = b after some steps of conjugate gradients from 0.

    Where the residual is 0, further steps change nothing. No number is read, so that a GPU is not waited for.

    Args:
        apply: The product A v (P,) of a symmetric positive definite matrix and a vector (P,).
        target: b (P,).
        steps: How many products are taken.

    Reference: Hestenes & Stiefel, 1952.

    >>> conjugate_gradients(lambda v: torch.tensor([2.0, 4.0]) * v, torch.tensor([2.0, 2.0]), steps=2)
    tensor([1.0000, 0.5000])
    """
    x, residual = torch.zeros_like(target), target
    direction, size = residual, residual @ residual
    for _ in range(steps):
        image = apply(direction)
        rate = _ratio(size, direction @ image)
        x, residual = x + rate * direction, residual - rate * image
        before, size = size, residual @ residual
        direction = residual + _ratio(size, before) * direction
    return x


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return above / below, and 0 where below is 0."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), 0)
