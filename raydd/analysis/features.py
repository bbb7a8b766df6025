"""How experts see synthetic images beside real ones, from the start of training to its end.

Shapes: `K` classes, `B` batch, `F` features, `N` synthetic images, `E` experts, `T` stages.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, one_hot

from raydd.analysis.buffers import SPLIT, spread
from raydd.analysis.document import Document
from raydd.analysis.stages import (
    AT_ONCE,
    Place,
    at_every_stage,
    full_buffer,
    head,
    known_epochs,
    known_expert,
    network_of,
    open_sets,
    open_work,
    put_at,
)
from raydd.figures.embedding import tsne
from raydd.numerics.rng import generator

Batches = Iterable[tuple[Tensor, Tensor]]


def similarity(
    paths: Sequence[Path], folder: Path, epochs: Sequence[int] = (), images: int = 256, *, place: Place
) -> Document:
    """How alike synthetic and real images are to experts, by stage of training.

    ``corr(mean psi_t(real of c), mean psi_t(synthetic of c))`` over the F features, mean over the classes c
    that a set has images of; the mean and standard deviation over the experts are reported.

    Args:
        paths: Files of synthetic sets.
        folder: A buffer with a snapshot an epoch.
        epochs: Stages; none takes every snapshot.
        images: At most so many training images a class; the same for all sets and stages.
        place: Where networks run, progress is told and real images are found.

    Raises:
        ValueError: A convexified buffer, no such stage, fewer than one image, or sets or images that are not
            the experts'.

    Reference:
        TGDD (Ran et al.), Fig. 4a: "distribution similarity via feature correlations".

    Differs:
        The paper does not say between what the correlation is taken, of how many images, nor how many
        experts take part. Pearson's is used, not the cosine: features after a ReLU have a large mean in
        common, which makes any two of them alike.
    """
    buffer = full_buffer(folder)
    stages, shown = known_epochs(buffer, epochs), open_sets(paths, buffer, place.device)
    work = open_work(buffer, place.images, place.device)
    train, classes = work.feed(work.dataset.train), buffer.spec.classes
    rows = some_of_each(work.dataset.train.targets, images, generator(0, "stages", "real"))

    def ask(network: nn.Module) -> list[float]:
        real = class_means(network, map(train, rows.split(AT_ONCE)), classes)
        return [float(correlation(real, class_means(network, s.batches(), classes)).nanmean()) for s in shown]

    found = at_every_stage("similarity", buffer, stages, place, ask)
    sets = [item.describe() | spread(values) for item, values in zip(shown, found, strict=True)]
    return head("similarity", buffer) | {"real_images": len(rows), "epochs": stages, "sets": sets}


def separability(paths: Sequence[Path], folder: Path, epochs: Sequence[int] = (), *, place: Place) -> Document:
    """How well experts classify synthetic images, by stage of training; beside it, real validation images.

    The class of an image with a soft label is that of its largest logit.

    Args:
        paths: Files of synthetic sets.
        folder: A buffer with a snapshot an epoch.
        epochs: Stages; none takes every snapshot.
        place: Where networks run and progress is told; real images are not read.

    Raises:
        ValueError: A convexified buffer, no such stage, or sets that are not of the experts' images.

    Reference:
        TGDD (Ran et al.), Fig. 4b: "class separability evaluated by pretrained model accuracy across stages".
    """
    buffer = full_buffer(folder)
    stages, shown = known_epochs(buffer, epochs), open_sets(paths, buffer, place.device)
    found = at_every_stage(
        "separability", buffer, stages, place, lambda network: [accuracy(network, s.batches()) for s in shown]
    )
    sets = [item.describe() | spread(values) for item, values in zip(shown, found, strict=True)]
    reference = {"split": SPLIT} | spread(buffer.accuracy[:, stages])
    return head("separability", buffer) | {"epochs": stages, "reference": reference, "sets": sets}


def embedding(
    path: Path,
    folder: Path,
    epochs: Sequence[int] = (),
    images: int = 100,
    *,
    place: Place,
    expert: int = 0,
    seed: int = 0,
) -> Document:
    """Real and synthetic features of an expert in one plane, by t-SNE, at some stages of its training.

    Args:
        path: The file of a synthetic set.
        folder: A buffer with a snapshot an epoch.
        epochs: Stages; none takes the first, the middle and the last snapshot.
        images: At most so many training images a class.
        place: Where networks run, progress is told and real images are found.
        expert: Its number.
        seed: The choice of real images and the planes come from it.

    Raises:
        ValueError: A convexified buffer, no such stage or expert, fewer than one image, or sets or images that
            are not the experts'.

    Reference:
        TGDD (Ran et al.), Fig. 2 and 5.

    Differs:
        The paper gives neither the number of real images nor t-SNE's settings; `tsne` has ours.
    """
    buffer = full_buffer(folder)
    stages = known_epochs(buffer, epochs or (0, buffer.epochs // 2, buffer.epochs))
    known_expert(buffer, expert)
    (shown,) = open_sets([path], buffer, place.device)
    work = open_work(buffer, place.images, place.device)
    train, network, found = work.feed(work.dataset.train), network_of(buffer, place.device), []
    rows = some_of_each(work.dataset.train.targets, images, generator(seed, "embedding", "real"))
    classes = {"real": work.dataset.train.targets[rows], "synthetic": shown.synset.hard_labels.cpu()}
    with place.screen.progress("embedding", len(stages)) as update:
        for epoch in stages:
            put_at(network, buffer, expert, epoch)
            batches = [*map(train, rows.split(AT_ONCE)), *shown.batches()]
            plane = tsne(features_of(network, batches), generator(seed, "embedding", epoch))
            points = dict(zip(classes, plane.points.split([len(rows), len(shown.synset.images)]), strict=True))
            columns = {kind: dict(zip("xy", xy.T.tolist(), strict=True)) for kind, xy in points.items()}
            found.append({"epoch": epoch, "divergence": plane.divergence} | columns)
            update(len(found), "stages embedded")
    top = head("embedding", buffer) | {"expert": expert, "seed": seed, "set": shown.describe()}
    labels = {kind: values.tolist() for kind, values in classes.items()}
    return top | {"class_names": list(work.dataset.classes), "classes": labels, "stages": found}


def some_of_each(targets: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Rows of at most so many images a class, drawn at random, in class order.

    Args:
        targets: Classes (n,).
        most: Images a class.
        rng: The draws.

    Raises:
        ValueError: ``most`` is under 1.
    """
    if most < 1:
        raise ValueError(f"--images {most}: give at least one real image a class")
    order = torch.randperm(len(targets), generator=rng)
    return torch.cat([order[targets[order] == label][:most] for label in targets.unique()])


@torch.no_grad()
def features_of(network: nn.Module, batches: Batches) -> Tensor:
    """The features (n, F) of all images, on the CPU."""
    return torch.cat([_features(network, x).cpu() for x, _ in batches])


def _features(network: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, network.features(x))  # type: ignore[operator]


def class_means(network: nn.Module, batches: Batches, classes: int) -> Tensor:
    """The mean features (K, F) of each class, float64; NaN where a class has no image."""
    totals, counts = [], []
    for x, y in batches:
        members = one_hot(y, classes).double()  # a sum by matrix product is the same every time on a GPU too
        totals.append(members.T @ _features(network, x).double())
        counts.append(members.sum(dim=0))
    return torch.stack(totals).sum(dim=0) / torch.stack(counts).sum(dim=0)[:, None]


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation (K,) of the rows of a and b (K, F); 0 where a row is constant.

    >>> correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 3.0, 1.0]])).round(decimals=4)
    tensor([-1.])
    """
    return cosine_similarity(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True), dim=1)


def accuracy(network: nn.Module, batches: Batches) -> float:
    """The fraction of images that a network classifies correctly."""
    right = torch.cat([network(x).argmax(dim=1) == y for x, y in batches])
    return float(right.double().mean())
