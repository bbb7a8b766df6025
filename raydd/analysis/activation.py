"""How much of a network synthetic images bring to work, one by one and all together.

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
from raydd.analysis.stages import Place, Shown, full_buffer, head, network_of, open_sets, put_at
from raydd.numerics.losses import cross_entropy

WEIGHED = (nn.Conv2d, nn.Linear)


class Ratios(NamedTuple):
    """Parts of a network's hidden neurons, in [0, 1].

    Attributes:
        image: Those that an image activates, mean over the images.
        whole: Those that at least one image activates.
        neurons: How many there are.
    """

    image: float
    whole: float
    neurons: int


def activation(paths: Sequence[Path], folder: Path, *, place: Place) -> Document:
    """Which part of the experts' neurons synthetic images activate: an image, and the whole set.

    An image activates a neuron where ``|dl/dz_u| > mean over the layer's neurons of |dl/dz|``, with l its
    cross-entropy at the last snapshot. The mean and standard deviation over the experts are reported.

    Args:
        paths: Files of synthetic sets.
        folder: A buffer with a snapshot an epoch.
        place: Where networks run and progress is told; real images are not read.

    Raises:
        ValueError: A convexified buffer, or sets that are not of the experts' images.

    Reference:
        TGDD (Ran et al.), Fig. 4c: "neurons with gradients exceeding layer-wise mean values are considered
        activated", after Wang et al., KDD 2024.

    Differs:
        The paper does not define a neuron, the gradient, or the network. Here a neuron is an output channel of
        a convolution or an output unit of a linear layer, without the logits; its gradient is that of the
        image's cross-entropy by the output z before norm and activation, absolute, mean over the map; each
        image is compared with its own layer's mean; and all neurons count the same, whatever their layer.
    """
    buffer = full_buffer(folder)
    shown, network = open_sets(paths, buffer, place.device), network_of(buffer, place.device)
    found: list[list[Ratios]] = [[] for _ in shown]
    with place.screen.progress("activation", len(buffer.experts)) as update:
        for done, expert in enumerate(buffer.experts, 1):
            put_at(network, buffer, expert, buffer.epochs)
            for item, values in zip(shown, found, strict=True):
                values.append(ratios(network, item))
            update(done, "experts measured")
    sets = [item.describe() | _spreads(values) for item, values in zip(shown, found, strict=True)]
    return head("activation", buffer) | {"epoch": buffer.epochs, "neurons": found[0][0].neurons, "sets": sets}


def _spreads(values: Sequence[Ratios]) -> Document:
    kinds: tuple[str, str] = ("image", "whole")
    columns = torch.tensor([(value.image, value.whole) for value in values], dtype=torch.float64).T
    return {kind: spread(column) for kind, column in zip(kinds, columns, strict=True)}


def ratios(network: nn.Module, shown: Shown) -> Ratios:
    """The parts of a network's neurons that a synthetic set activates."""
    active = [
        torch.cat([exceeding(layer) for layer in neuron_gradients(network, x, y)], dim=1)
        for x, y in shown.batches(shown.synset.targets)
    ]
    images = sum(float(part.double().mean(dim=1).sum()) for part in active) / len(shown.synset.images)
    whole = torch.stack([part.any(dim=0) for part in active]).any(dim=0)
    return Ratios(images, float(whole.double().mean()), len(whole))


def exceeding(sizes: Tensor) -> Tensor:
    """Which neurons (B, U) of a layer have gradients beyond the layer's mean, image by image.

    >>> exceeding(torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])).tolist()
    [[False, False, True], [False, False, False]]
    """
    return sizes > sizes.mean(dim=1, keepdim=True)


def neuron_gradients(network: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """The size of each hidden neuron's gradient, (B, U) a layer, in the order the layers are run in.

    Args:
        network: It treats the images of a batch one by one.
        x: Images (B, C, H, W).
        y: Classes (B,) or probabilities (B, K).

    Returns:
        ``|dl/dz|`` of the mean cross-entropy over the batch: an image's own gradient by B, for each. The last
        layer that is run makes the logits and is left out.
    """
    with _outputs(network) as seen:
        loss = cross_entropy(network(x), y)
    hidden = seen[:-1]
    gradients = torch.autograd.grad(loss, [output for output, _ in hidden], materialize_grads=True)
    return [_sizes(gradient, axis) for gradient, (_, axis) in zip(gradients, hidden, strict=True)]


def _sizes(gradient: Tensor, axis: int) -> Tensor:
    channels = gradient.abs().movedim(axis, 1)
    return channels.reshape(*channels.shape[:2], -1).mean(dim=2)


@contextmanager
def _outputs(network: nn.Module) -> Iterator[list[tuple[Tensor, int]]]:
    """Collects the output of each layer with weights, and which of its dimensions counts the neurons."""
    seen: list[tuple[Tensor, int]] = []

    def keep(module: nn.Module, _: object, output: Tensor) -> Tensor:
        seen.append((output, 1 if isinstance(module, nn.Conv2d) else -1))
        return output.clone()  # what follows may write into it

    hooks = [module.register_forward_hook(keep) for module in network.modules() if isinstance(module, WEIGHED)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
