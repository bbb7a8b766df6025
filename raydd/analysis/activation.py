"""The share of a network's neurons that synthetic images activate, each image and the whole set.

Shapes: `N` images, `B` batch, `U` neurons, `K` classes, `C H W` image.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raydd.analysis.buffers import spread
from raydd.analysis.document import Document
from raydd.analysis.expert_networks import (
    AnalysisContext,
    DecodedSet,
    expert_network,
    full_buffer,
    header,
    load_snapshot,
    open_sets,
)
from raydd.numerics.losses import cross_entropy

WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)


class Ratios(NamedTuple):
    """Shares of hidden neurons that an image (mean) and at least one image activate; and the number of neurons."""

    image: float
    whole: float
    neurons: int


def activation(paths: Sequence[Path], folder: Path, *, context: AnalysisContext) -> Document:
    """Return the share of the experts' neurons that synthetic images activate: an image, and the whole set.

    An image activates a neuron where ``|dl/dz_u| > mean over the layer's neurons of |dl/dz|``, with l its cross-entropy
    at the last snapshot; with mean and standard deviation over the experts. Arguments and errors are those of
    `raydd.analysis.features`.

    Reference:
        TGDD (Ran et al.), Fig. 4c: "neurons with gradients exceeding layer-wise mean values are considered
        activated", after Wang et al., KDD 2024.

    Differs:
        The paper does not define a neuron, the gradient, or the network. Here a neuron is an output channel of a
        convolution or an output unit of a linear layer, without the logits; its gradient is that of the image's
        cross-entropy by the output z before norm and activation, absolute, mean over the map; each image is compared
        with its own layer's mean; and all neurons count the same in all layers.
    """
    buffer = full_buffer(folder)
    sets, network = open_sets(paths, buffer, context.device), expert_network(buffer, context.device)
    values: list[list[Ratios]] = [[] for _ in sets]
    with context.screen.progress("activation", len(buffer.experts)) as update:
        for done, expert in enumerate(buffer.experts, 1):
            load_snapshot(network, buffer, expert, buffer.epochs)
            for decoded, of_set in zip(sets, values, strict=True):
                of_set.append(ratios(network, decoded))
            update(done, "experts measured")
    numbers = [decoded.describe() | _spreads(of_set) for decoded, of_set in zip(sets, values, strict=True)]
    return header("activation", buffer) | {"epoch": buffer.epochs, "neurons": values[0][0].neurons, "sets": numbers}


def _spreads(values: Sequence[Ratios]) -> Document:
    table = torch.tensor([(value.image, value.whole) for value in values], dtype=torch.float64)
    return {"image": spread(table[:, 0]), "whole": spread(table[:, 1])}


def ratios(network: nn.Module, decoded: DecodedSet) -> Ratios:
    """Return the shares of a network's neurons that a synthetic set activates."""
    active = [
        torch.cat([exceeding(layer) for layer in neuron_gradients(network, x, y)], dim=1)
        for x, y in decoded.batches(decoded.synset.targets)
    ]
    images = sum(float(part.double().mean(dim=1).sum()) for part in active) / len(decoded.synset.images)
    whole = torch.stack([part.any(dim=0) for part in active]).any(dim=0)
    return Ratios(images, float(whole.double().mean()), len(whole))


def exceeding(sizes: Tensor) -> Tensor:
    """Return which neurons (B, U) of a layer have gradients above the layer's mean, for each image.

    >>> exceeding(torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])).tolist()
    [[False, False, True], [False, False, False]]
    """
    return sizes > sizes.mean(dim=1, keepdim=True)


def neuron_gradients(network: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the size of each hidden neuron's gradient, (B, U) a layer, in the order in which layers run.

    Args:
        network: It treats the images of a batch independently.
        x: Images (B, C, H, W).
        y: Classes (B,) or probabilities (B, K).

    Returns:
        ``|dl/dz|`` of the mean cross-entropy over the batch: an image's own gradient divided by B. The last layer,
        which makes the logits, is left out.
    """
    with _outputs(network) as outputs:
        loss = cross_entropy(network(x), y)
    hidden = outputs[:-1]
    gradients = torch.autograd.grad(loss, [output for output, _ in hidden], materialize_grads=True)
    channels = [gradient.abs().movedim(axis, 1) for gradient, (_, axis) in zip(gradients, hidden, strict=True)]
    return [each.reshape(*each.shape[:2], -1).mean(dim=2) for each in channels]


@contextmanager
def _outputs(network: nn.Module) -> Iterator[list[tuple[Tensor, int]]]:
    """Collect the output of each layer with weights, and the dimension of its neurons."""
    outputs: list[tuple[Tensor, int]] = []

    def collect(module: nn.Module, _: object, output: Tensor) -> Tensor:
        outputs.append((output, 1 if isinstance(module, nn.Conv2d) else -1))
        return output.clone()  # later layers may write into it

    hooks = [module.register_forward_hook(collect) for module in network.modules() if isinstance(module, WEIGHT_LAYERS)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
