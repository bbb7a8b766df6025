"""Where synthetic images, and soft labels, start.

A start is a function (dataset, transform, ipc, rng, experts) -> images (K ipc, C, H, W), preprocessed, and
labels: classes (K ipc,) or logits (K ipc, K), in class order.

Shapes: `N` images, `K` classes, `C H W` image, `F` features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.data.clusters import centres, nearest
from raydd.data.datasets import Dataset
from raydd.data.trajectory import TrajectorySource
from raydd.data.transform import Transform
from raydd.numerics.flat import FlatModel

_BATCH = 512


@dataclass(frozen=True, eq=False)
class Experts:
    """Trained networks that a start asks about real images, each after its last epoch.

    Attributes:
        model: The network.
        source: The experts' trajectories.
        device: Where they compute.
        clusters: Clusters a class for the representative start; None takes one an image.
    """

    model: FlatModel
    source: TrajectorySource
    device: torch.device
    clusters: int | None = None

    def pick(self, rng: torch.Generator) -> int:
        """One of the experts, at random."""
        return self.source.experts[int(torch.randint(len(self.source.experts), (), generator=rng))]

    def logits(self, expert: int, images: Tensor) -> Tensor:
        """What an expert says of preprocessed images: (N, K) on the CPU."""
        return self._ask(self.model, expert, images)

    def features(self, expert: int, images: Tensor) -> Tensor:
        """What an expert sees in preprocessed images before its last layer: (N, F) on the CPU."""
        return self._ask(self.model.features, expert, images)

    @torch.no_grad()
    def _ask(self, of: Callable[[Tensor, Tensor], Tensor], expert: int, images: Tensor) -> Tensor:
        theta = self.source.snapshot(expert, self.source.epochs).to(self.device)
        return torch.cat([of(theta, part.to(self.device)).cpu() for part in images.split(_BATCH)])


def real(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """Images drawn from the training split without repetition, class by class.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """
    chosen = torch.cat([rows[:ipc] for rows in _shuffled_classes(dataset, ipc, rng)])
    return transform(dataset.train.take(chosen)), dataset.train.targets[chosen]


def _shuffled_classes(dataset: Dataset, ipc: int, rng: torch.Generator) -> list[Tensor]:
    """The training rows of each class, in random order; refuses classes smaller than ``ipc``."""
    targets, classes = dataset.train.targets, []
    for label, name in enumerate(dataset.classes):
        members = torch.nonzero(targets == label).flatten()
        if len(members) < ipc:
            raise ValueError(
                f"ipc {ipc} is larger than class {name!r} of {dataset.name}, which has {len(members)} training images; "
                f"use --ipc {len(members)} or less"
            )
        classes.append(members[torch.randperm(len(members), generator=rng)])
    return classes


def noise(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """Standard normal images (K ipc, C, H, W) in the preprocessed space, and classes (K ipc,)."""
    count = len(dataset.classes) * ipc
    images = torch.randn((count, dataset.channels, dataset.size, dataset.size), generator=rng)
    return images, torch.arange(len(dataset.classes)).repeat_interleave(ipc)


def correctly_classified(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts
) -> tuple[Tensor, Tensor]:
    """Real images that one sampled expert classifies correctly, and its logits as soft labels.

    Where a class has too few such images, those the expert comes nearest to follow, and in their logits the
    true class takes the highest value, so that no label is wrong.

    Returns:
        Preprocessed images (K ipc, C, H, W) and logits (K ipc, K), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.

    Reference:
        Guo et al., arXiv 2310.05773, section 3.2, "mislabeling"; appendix A.2.
    """
    expert, images, labels = experts.pick(rng), [], []
    for label, rows in enumerate(_shuffled_classes(dataset, ipc, rng)):
        found, logits = _recognised(dataset, transform, rows, label, ipc, lambda x: experts.logits(expert, x))
        images.append(found)
        labels.append(_righted(logits, label))
    return torch.cat(images), torch.cat(labels)


def _recognised(
    dataset: Dataset,
    transform: Transform,
    rows: Tensor,
    label: int,
    ipc: int,
    logits: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The first ``ipc`` rows that are classified as ``label``, then the nearest misses: images and logits."""
    size, seen, answers = max(64, 4 * ipc), 0, []
    while seen < len(rows):
        answers.append(logits(transform(dataset.train.take(rows[seen : seen + size]))))
        seen += size
        if sum(int((answer.argmax(dim=1) == label).sum()) for answer in answers) >= ipc:
            break
    answer = torch.cat(answers)
    best = answer.max(dim=1).values
    miss = torch.where(answer.argmax(dim=1) == label, -1.0, (best - answer[:, label]).double())
    order = torch.argsort(miss, stable=True)[:ipc]
    return transform(dataset.train.take(rows[order])), answer[order]


def _righted(logits: Tensor, label: int) -> Tensor:
    """Logits (n, K) with the values of ``label`` and of the winner exchanged, where those differ."""
    righted, winners, rows = logits.clone(), logits.argmax(dim=1), torch.arange(len(logits))
    righted[rows, winners], righted[:, label] = logits[:, label], logits[rows, winners]
    return righted


def correctly_classified_mean(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts
) -> tuple[Tensor, Tensor]:
    """As `correctly_classified`, with the mean logits of all experts that classify an image correctly.

    This is the start of DATM's published code, which divides by zero where no expert is right; here such an
    image keeps the logits of `correctly_classified`.
    """
    images, first = correctly_classified(dataset, transform, ipc, rng, experts)
    classes = torch.arange(len(dataset.classes)).repeat_interleave(ipc)
    total, count = torch.zeros_like(first), torch.zeros(len(first), 1)
    for expert in experts.source.experts:
        logits = experts.logits(expert, images)
        right = (logits.argmax(dim=1) == classes)[:, None]
        total, count = total + logits * right, count + right
    return images, torch.where(count > 0, total / count.clamp(min=1), first)


def clusters_of(ipc: int, clusters: int | None) -> int:
    """Clusters a class: as many as asked for, or one an image.

    Raises:
        ValueError: If they cannot stand for equally many images each.
    """
    if clusters is not None and ipc % clusters:
        raise ValueError(f"clusters {clusters} does not divide ipc {ipc}; use --set clusters with a divisor of it")
    return clusters or ipc


def representative(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts
) -> tuple[Tensor, Tensor]:
    """The real images nearest to the centres of each class's clusters in an expert's feature space.

    ``experts.clusters`` clusters a class stand for ipc / clusters images each; None makes ipc clusters.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images, or ipc is no multiple of ``clusters``.

    Reference:
        Shen et al., arXiv 2310.10541, section IV-C1, and V-A for 10 clusters at ipc 50.

    Differs:
        The official code clusters logits; the paper, and this, the features before the last layer.
    """
    clusters = clusters_of(ipc, experts.clusters)
    expert, images = experts.pick(rng), []
    for rows in _shuffled_classes(dataset, ipc, rng):
        members = transform(dataset.train.take(rows.sort().values))
        features = experts.features(expert, members)
        images.append(members[nearest(centres(features, clusters, rng), features, ipc // clusters)])
    return torch.cat(images), torch.arange(len(dataset.classes)).repeat_interleave(ipc)


INITIAL: dict[str, Callable[[Dataset, Transform, int, torch.Generator, Experts], tuple[Tensor, Tensor]]] = {
    "real": real,
    "noise": noise,
    "correctly_classified": correctly_classified,
    "correctly_classified_mean": correctly_classified_mean,
    "representative": representative,
}

SOFT = frozenset({"correctly_classified", "correctly_classified_mean"})
"""The starts whose labels are logits."""
