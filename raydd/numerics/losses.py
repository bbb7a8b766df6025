"""Classification losses.

Shapes: `B` batch, `K` classes.
"""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Mean cross-entropy, for classes or for soft labels.

    Args:
        logits: (B, K).
        labels: (B,) integer classes, or (B, K) probabilities q; then the loss is
            -sum_k q_k log softmax(logits)_k.

    Returns:
        A scalar, in nats.

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
