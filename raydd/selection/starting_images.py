"""Where synthetic images, and soft labels, start; see `raydd.selection.class_sampler.Start`.

Shapes: `N` images, `K` classes, `C H W` image, `F` features.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raydd.config.rules import SOFT
from raydd.data.datasets import Dataset
from raydd.data.preprocessing import Transform
from raydd.selection.class_sampler import (
    Experts as Experts,
    Start,
    in_class_order,
    needed,
    real as real,
    shuffled_classes,
)
from raydd.selection.coresets import MEASURED, forgetting, herding, kcenter, kmeans
from raydd.selection.kmeans import centres, nearest


def noise(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """Standard normal images (K ipc, C, H, W) in the preprocessed space, and classes (K ipc,)."""
    count = len(dataset.classes) * ipc
    images = torch.randn((count, dataset.channels, dataset.size, dataset.size), generator=rng)
    return images, in_class_order(dataset, ipc)


def correctly_classified(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """Real images that one sampled expert classifies correctly, and its logits as soft labels.

    Where a class has too few such images, those the expert comes nearest to follow, and in their logits the
    true class takes the highest value, so that no label is wrong.

    Returns:
        Preprocessed images (K ipc, C, H, W) and logits (K ipc, K), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images, or there are no experts.

    Reference:
        Guo et al., arXiv 2310.05773, section 3.2, "mislabeling"; appendix A.2.
    """
    asked = needed(experts, "correctly_classified")
    expert, images, labels = asked.pick(rng), [], []
    for label, rows in enumerate(shuffled_classes(dataset, ipc, rng)):
        found, logits = _recognised(dataset, transform, rows, label, ipc, lambda x: asked.logits(expert, x))
        images.append(found)
        labels.append(_righted(logits, label))
    return torch.cat(images), torch.cat(labels)


def _recognised(
    dataset: Dataset, transform: Transform, rows: Tensor, label: int, ipc: int, logits: Callable[[Tensor], Tensor]
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
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """As `correctly_classified`, with the mean logits of all experts that classify an image correctly.

    This is the start of DATM's published code, which divides by zero where no expert is right; here such an
    image keeps the logits of `correctly_classified`.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images, or there are no experts.
    """
    asked = needed(experts, "correctly_classified_mean")
    images, first = correctly_classified(dataset, transform, ipc, rng, asked)
    classes = in_class_order(dataset, ipc)
    total, count = torch.zeros_like(first), torch.zeros(len(first), 1)
    for expert in asked.source.experts:
        logits = asked.logits(expert, images)
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
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """The real images nearest to the centres of each class's clusters in an expert's feature space.

    ``experts.clusters`` clusters a class stand for ipc / clusters images each; None makes ipc clusters.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images, ipc is no multiple of ``clusters``, or there
            are no experts.

    Reference:
        Shen et al., arXiv 2310.10541, section IV-C1, and V-A for 10 clusters at ipc 50.

    Differs:
        The official code clusters logits; the paper, and this, the features before the last layer.
    """
    asked = needed(experts, "representative")
    clusters = clusters_of(ipc, asked.clusters)
    expert, images = asked.pick(rng), []
    for rows in shuffled_classes(dataset, ipc, rng):
        members = transform(dataset.train.take(rows.sort().values))
        features = asked.features(expert, members)
        images.append(members[nearest(centres(features, clusters, rng), features, ipc // clusters)])
    return torch.cat(images), in_class_order(dataset, ipc)


INITIAL: dict[str, Start] = {
    "real": real,
    "noise": noise,
    "correctly_classified": correctly_classified,
    "correctly_classified_mean": correctly_classified_mean,
    "representative": representative,
    "kmeans": kmeans,
    "herding": herding,
    "kcenter": kcenter,
    "forgetting": forgetting,
}
"""The starts by name."""

ASKS_EXPERTS = frozenset({*SOFT, "representative", "forgetting"})
"""The starts that cannot do without experts; the others make use of them or not."""

CHOOSES = MEASURED | {"kmeans"}
"""The starts that measure distances: between an expert's features where there are experts, else between pixels."""
