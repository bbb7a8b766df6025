"""Features of synthetic images beside real ones, and the neurons that they activate, in the experts' training.

The analyses take files of synthetic sets, a buffer with a snapshot an epoch, some of its epochs, and the number of
training images per class, at most. They raise ValueError for a convexified buffer, an epoch or expert that it does not
have, fewer than one image, and sets or images that are not the experts'.

Shapes: `K` classes, `B` batch, `F` features, `U` neurons, `C H W` image, `N` synthetic images, `E` experts, `T` epochs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, one_hot

from raydd.analysis.buffers import SPLIT, spread
from raydd.analysis.document import Document
from raydd.analysis.expert_networks import (
    BATCH,
    AnalysisContext,
    DecodedSet,
    check_epochs,
    check_expert,
    expert_network,
    full_buffer,
    header,
    load_snapshot,
    measure_epochs,
    open_images,
    open_sets,
)
from raydd.data.workspace import accuracy
from raydd.figures.embedding import tsne
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator

Batches = Iterable[tuple[Tensor, Tensor]]


def similarity(
    paths: Sequence[Path], folder: Path, epochs: Sequence[int] = (), images: int = 256, *, context: AnalysisContext
) -> Document:
    """Return how similar synthetic and real images are to experts, by epoch of their training.

    ``corr(mean psi_t(real of c), mean psi_t(synthetic of c))`` over the F features, mean over the classes c of a set;
    with mean and standard deviation over the experts.

    Reference:
        TGDD (Ran et al.), Fig. 4a: "distribution similarity via feature correlations".

    Differs:
        The paper does not say between what the correlation is taken, of how many images, or of how many experts. Here
        it is Pearson's, not the cosine: features after a ReLU have a large common mean, which makes any two of them
        similar.
    """
    buffer = full_buffer(folder)
    epochs, sets = check_epochs(buffer, epochs), open_sets(paths, buffer, context.device)
    work = open_images(buffer, context.images, context.device)
    train, classes = work.feed(work.dataset.train), buffer.spec.classes
    rows = sample_classes(work.dataset.train.targets, images, generator(0, "stages", "real"))

    def measure(network: nn.Module) -> list[float]:
        real = class_means(network, map(train, rows.split(BATCH)), classes)
        return [float(correlation(real, class_means(network, each.batches(), classes)).nanmean()) for each in sets]

    values = measure_epochs("similarity", buffer, epochs, context, measure)
    numbers = [each.describe() | spread(value) for each, value in zip(sets, values, strict=True)]
    return header("similarity", buffer) | {"real_images": len(rows), "epochs": epochs, "sets": numbers}


def separability(
    paths: Sequence[Path], folder: Path, epochs: Sequence[int] = (), *, context: AnalysisContext
) -> Document:
    """Return how well experts classify synthetic images and real validation images, by epoch of their training.

    The class of an image with a soft label is that of its largest logit.

    Reference:
        TGDD (Ran et al.), Fig. 4b: "class separability evaluated by pretrained model accuracy across stages".
    """
    buffer = full_buffer(folder)
    epochs, sets = check_epochs(buffer, epochs), open_sets(paths, buffer, context.device)
    values = measure_epochs(
        "separability", buffer, epochs, context, lambda network: [accuracy(network, each.batches()) for each in sets]
    )
    numbers = [each.describe() | spread(value) for each, value in zip(sets, values, strict=True)]
    reference = {"split": SPLIT} | spread(buffer.accuracy[:, epochs])
    return header("separability", buffer) | {"epochs": epochs, "reference": reference, "sets": numbers}


def embedding(
    path: Path,
    folder: Path,
    epochs: Sequence[int] = (),
    images: int = 100,
    *,
    context: AnalysisContext,
    expert: int = 0,
    seed: int = 0,
) -> Document:
    """Return real and synthetic features of an expert in two dimensions, by t-SNE, at some epochs of its training.

    The default epochs are the first, the middle and the last. ``seed`` decides the real images and the embeddings.

    Reference:
        TGDD (Ran et al.), Fig. 2 and 5.

    Differs:
        The paper gives neither the number of real images nor t-SNE's settings; `tsne` has ours.
    """
    buffer = full_buffer(folder)
    epochs = check_epochs(buffer, epochs or (0, buffer.epochs // 2, buffer.epochs))
    check_expert(buffer, expert)
    (decoded,) = open_sets([path], buffer, context.device)
    work = open_images(buffer, context.images, context.device)
    train, network, stages = work.feed(work.dataset.train), expert_network(buffer, context.device), []
    rows = sample_classes(work.dataset.train.targets, images, generator(seed, "embedding", "real"))
    classes = {"real": work.dataset.train.targets[rows], "synthetic": decoded.synset.hard_labels.cpu()}
    with context.screen.progress("embedding", len(epochs)) as update:
        for epoch in epochs:
            load_snapshot(network, buffer, expert, epoch)
            batches = [*map(train, rows.split(BATCH)), *decoded.batches()]
            plane = tsne(features_of(network, batches), generator(seed, "embedding", epoch))
            points = dict(zip(classes, plane.points.split([len(rows), len(decoded.synset.images)]), strict=True))
            columns = {kind: dict(zip("xy", xy.T.tolist(), strict=True)) for kind, xy in points.items()}
            stages.append({"epoch": epoch, "divergence": plane.divergence} | columns)
            update(len(stages), "stages embedded")
    labels = {kind: values.tolist() for kind, values in classes.items()}
    top = header("embedding", buffer) | {"expert": expert, "seed": seed, "set": decoded.describe()}
    return top | {"class_names": list(work.dataset.classes), "classes": labels, "stages": stages}


def sample_classes(targets: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Return rows of at most ``most`` random images of each class in targets (n,), in class order."""
    if most < 1:
        raise ValueError(f"--images {most}: give at least one real image a class")
    order = torch.randperm(len(targets), generator=rng)
    return torch.cat([order[targets[order] == label][:most] for label in targets.unique()])


@torch.no_grad()
def features_of(network: nn.Module, batches: Batches) -> Tensor:
    """Return the features (n, F) of all images, on the CPU."""
    return torch.cat([_features(network, x).cpu() for x, _ in batches])


def _features(network: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, network.features(x))  # type: ignore[operator]


def class_means(network: nn.Module, batches: Batches, classes: int) -> Tensor:
    """Return the mean features (K, F) of each class, float64; NaN where a class has no image."""
    totals, counts = [], []
    for x, y in batches:
        members = one_hot(y, classes).double()  # a sum by matrix product is deterministic on a GPU too
        totals.append(members.T @ _features(network, x).double())
        counts.append(members.sum(dim=0))
    return torch.stack(totals).sum(dim=0) / torch.stack(counts).sum(dim=0)[:, None]


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation (K,) of the rows of a and b (K, F); 0 where a row is constant.

    >>> correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 3.0, 1.0]])).round(decimals=4)
    tensor([-1.])
    """
    return cosine_similarity(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True), dim=1)


class Ratios(NamedTuple):
    """Shares of hidden neurons that an image (mean) and at least one image activate; and the number of neurons."""

    image: float
    whole: float
    neurons: int


def activation(paths: Sequence[Path], folder: Path, *, context: AnalysisContext) -> Document:
    """Return the share of the experts' neurons that synthetic images activate: an image, and the whole set.

    An image activates a neuron where ``|dl/dz_u| > mean over the layer's neurons of |dl/dz|``, with l its cross-entropy
    at the last snapshot; with mean and standard deviation over the experts.

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

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(collect) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
