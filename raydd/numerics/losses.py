"""Classification losses, their weights and penalties.

Shapes: `B` batch, `K` classes, `C H W` image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the mean cross-entropy -sum_k q_k log softmax(logits)_k, a scalar in nats.

    Args:
        logits: (B, K).
        labels: (B,) integer classes, or (B, K) probabilities q.

    >>> import torch
    >>> logits = torch.tensor([[0.0, 1.0]])
    >>> hard = cross_entropy(logits, torch.tensor([1]))
    >>> soft = cross_entropy(logits, torch.tensor([[0.0, 1.0]]))
    >>> round(hard.item(), 4), round(soft.item(), 4)
    (0.3133, 0.3133)
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return -(labels * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Return half the squared distance of outputs (B, K) from targets (B, K), mean over the batch; a scalar.

    >>> import torch
    >>> squared_error(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])).item()
    2.5
    """
    return (outputs - targets).square().sum(dim=1).mean() / 2


def label_margin(targets: Tensor, most: float) -> Tensor:
    """Return how far the largest target (n, K) of an image is above the next one, at most ``most``; the mean.

    Reference:
        Zhou et al., arXiv 2206.00719 (FRePo), its code, where ``most`` is 1 / K; Loo et al., arXiv 2302.06755 (RCIG),
        where it is 1 / (2 K).

    >>> import torch
    >>> label_margin(torch.tensor([[0.5, 0.25, 0.0], [1.0, 0.0, 0.0]]), 0.5).item()
    0.375
    """
    largest = targets.topk(2, dim=1).values
    return (largest[:, 0] - largest[:, 1]).clamp(max=most).mean()


def clip_weight(epoch: int, low: float, high: float, epochs: int) -> float:
    """Return lambda, the weight of an expert's cross-entropy in an epoch: low at first, 1 after ``epochs``.

    Args:
        epoch: Counted from 1.
        low: lambda in epoch 1.
        high: lambda in epoch ``epochs``; linear between the two.
        epochs: Epochs over which it rises; 0 leaves it at 1, and 1 gives ``low`` in epoch 1 alone.

    Reference: arXiv 2310.10541 (AST), Eq. 19 and section V-A: "an array ranging from 0.5 to 1", "applied individually
        for the first 5 training epochs", then "held constant" at 1.
    Differs: The paper does not say how the array rises; this one is linear.

    >>> [clip_weight(epoch, 0.5, 1.0, 5) for epoch in (1, 2, 3, 4, 5, 6)]
    [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
    """
    if epoch > epochs:
        return 1.0
    part = (epoch - 1) / (epochs - 1) if epochs > 1 else 0.0
    return low * (1 - part) + high * part


def gradient_penalty(logits: Tensor, x: Tensor, norm: float) -> Tensor:
    r"""Return the mean over images of (|grad_x W(x)|_2 - K)^2, with W(x) the sum of an image's logits; a scalar.

    One pass takes the gradient of the batch's summed W. It is each image's own unless the network mixes images, as
    BatchNorm does: then it includes the effect of an image on the others' logits.

    Args:
        logits: (B, classes), computed from ``x``.
        x: Images (B, C, H, W) that require gradients.
        norm: K, the gradient norm without a penalty.

    Raises:
        ValueError: ``x`` does not require gradients.

    Reference: arXiv 2310.10541 (AST), Eq. 19; Gulrajani et al., arXiv 1704.00028 (WGAN-GP), Eq. 3.
    Differs: AST leaves W open ("the model's output"). The sum of the logits is WGAN-GP's form, whose critic has one
        output; here the penalty is taken at the images themselves, not between pairs.

    >>> x = torch.zeros(2, 1, 1, 2, requires_grad=True)
    >>> logits = x.flatten(1) @ torch.tensor([[1.0, 2.0], [1.0, 3.0]])  # W = 3 x_1 + 4 x_2
    >>> gradient_penalty(logits, x, 1.0).item()
    16.0
    """
    if not x.requires_grad:
        raise ValueError("gradient_penalty needs images that require gradients; call x.requires_grad_() first")
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    lengths: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (lengths - norm).square().mean()


def balance(start: float, middle: float, offset: float = 8.0) -> float:
    """Return nu, the factor of a student's loss: ln(|start - middle| + theta) from the middle on, its inverse before.

    Early epochs have large losses and late ones small; nu narrows the gap.

    Args:
        start: Epoch t that the student starts from.
        middle: Half of the largest start epoch, T+ / 2.
        offset: theta; above 1, so that nu is positive.

    Reference: arXiv 2310.10541 (AST), Eq. 20; theta = 8 in section V-A.
    Differs: The official code takes the logarithm to base 5.

    >>> [round(balance(start, 10), 4) for start in (8, 10, 12)]
    [0.4343, 2.0794, 2.3026]
    """
    value = math.log(abs(start - middle) + offset)
    return value if start >= middle else 1 / value
