"""The gradient by which an optimiser updates an expert, computed from one batch.

Shapes: `B` batch, `C H W` image.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raydd.config.components import GsamConfig, SmoothConfig
from raydd.config.schema import ExpertConfig
from raydd.numerics.losses import clip_weight, cross_entropy, gradient_penalty
from raydd.numerics.sharpness import perturbation, surrogate

Step = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""(network, augmented images (B, C, H, W), classes (B,), epoch from 1) -> mean cross-entropy, a detached scalar.

It writes the direction into every parameter's ``grad`` and does not change the parameters. A BatchNorm's running
statistics count the batch once.
"""


def plain(network: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    """Compute the gradient of the cross-entropy."""
    loss = cross_entropy(network(x), y)
    network.zero_grad()
    loss.backward()
    return loss.detach()


def gsam(config: GsamConfig, network: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    """Compute the sharpness-aware gradient g_adv - alpha g_perp, from two evaluations of the batch.

    The second runs on a copy of the weights and of the running statistics.

    Reference:
        Du et al., arXiv 2211.11004 (FTD); Zhuang et al., arXiv 2203.08065, Algorithm 1.
    """
    named = dict(network.named_parameters())
    parameters = list(named.values())
    loss = cross_entropy(network(x), y)
    clean = torch.autograd.grad(loss, parameters, materialize_grads=True)
    with torch.no_grad():
        moved = [p + e for p, e in zip(parameters, perturbation(parameters, clean, config.rho), strict=True)]
    state = dict(zip(named, (p.requires_grad_() for p in moved), strict=True))
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    uphill = cross_entropy(functional_call(network, {**state, **buffers}, (x,)), y)
    adversarial = torch.autograd.grad(uphill, moved, materialize_grads=True)
    for parameter, direction in zip(parameters, surrogate(clean, adversarial, config.alpha), strict=True):
        parameter.grad = direction
    return loss.detach()


def smooth(config: SmoothConfig, network: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
    """Compute the gradient of lambda(epoch) CE + mu E[(|grad_x W(x)|_2 - K)^2], from one evaluation of the batch.

    Reference:
        arXiv 2310.10541 (AST), Eq. 19 and Algorithm 1.

    Differs:
        Eq. 19 prints the cross-entropy without its minus sign. The penalty is on the images as the
        network sees them, augmented; the official code takes un-augmented ones.
    """
    x = x.detach().requires_grad_(config.mu > 0)
    logits = network(x)
    loss = cross_entropy(logits, y)
    total = clip_weight(epoch, config.low, config.high, config.epochs) * loss
    if config.mu > 0:
        total = total + config.mu * gradient_penalty(logits, x, config.norm)
    network.zero_grad()
    total.backward(inputs=list(network.parameters()))
    return loss.detach()


STEPS: dict[str, Callable[[ExpertConfig], Step]] = {
    "sgd": lambda config: plain,
    "momentum": lambda config: plain,
    "adam": lambda config: plain,
    "gsam": lambda config: partial(gsam, config.gsam),
    "smooth": lambda config: partial(smooth, config.smooth),
}
"""By the name of ``ExpertConfig.optimizer``."""
