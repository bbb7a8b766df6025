"""Starting values of synthetic images, and of soft labels; see `raydd.selection.class_sampler.Start`."""

from collections.abc import Callable

import torch
from torch import Tensor

from raydd.config.rules import SOFT_LABELS
from raydd.selection.class_sampler import Request, Start, real
from raydd.selection.coresets import BY_DISTANCE, CORESETS, by_distance, centres, nearest
from raydd.selection.crops import rded


def noise(request: Request) -> tuple[Tensor, Tensor]:
    """Draw standard normal images (K ipc, C, H, W) in the preprocessed space, with classes (K ipc,)."""
    data = request.dataset
    shape = (len(data.classes) * request.ipc, data.channels, data.size, data.size)
    return torch.randn(shape, generator=request.rng), request.labels


def correctly_classified(request: Request) -> tuple[Tensor, Tensor]:
    """Draw real images that one sampled expert classifies correctly, with its logits (K ipc, K); see `Start`.

    Where a class has too few such images, the nearest misses follow, and in their logits the true class takes the
    highest value, so that no label is wrong.

    Reference:
        Guo et al., arXiv 2310.05773, section 3.2, "mislabeling"; appendix A.2.
    """
    known = request.require_experts("correctly_classified")
    expert, images, labels = known.pick(request.rng), [], []
    for label, rows in enumerate(request.classes()):
        best, logits = _best_classified(request, rows, label, lambda x: known.logits(expert, x))
        corrected, winners, each = logits.clone(), logits.argmax(dim=1), torch.arange(len(logits))
        corrected[each, winners], corrected[:, label] = logits[:, label], logits[each, winners]  # exchanged
        images.append(best)
        labels.append(corrected)
    return torch.cat(images), torch.cat(labels)


def real_soft(request: Request) -> tuple[Tensor, Tensor]:
    """Draw any real images, with one sampled expert's logits (K ipc, K), right or wrong; see `Start`.

    Reference:
        Guo et al., arXiv 2310.05773 (DATM), Fig. 3 (a), "random selection", and appendix A.2.
    """
    known = request.require_experts("real_soft")
    expert = known.pick(request.rng)
    images, _ = real(request)
    return images, known.logits(expert, images)


def _best_classified(
    request: Request, rows: Tensor, label: int, logits_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return images and logits of the first ``ipc`` rows classified as ``label``, then of the nearest misses."""
    parts = list[Tensor]()
    for some in rows.split(max(64, 4 * request.ipc)):
        parts.append(logits_of(request.images(some)))
        if sum(int((part.argmax(dim=1) == label).sum()) for part in parts) >= request.ipc:
            break
    logits = torch.cat(parts)
    gap = (logits.max(dim=1).values - logits[:, label]).double()
    miss = torch.where(logits.argmax(dim=1) == label, -1.0, gap)
    order = torch.argsort(miss, stable=True)[: request.ipc]
    return request.images(rows[order]), logits[order]


def correctly_classified_mean(request: Request) -> tuple[Tensor, Tensor]:
    """Draw as `correctly_classified`, with the mean logits of all experts that classify an image correctly.

    This is the start of DATM's published code, which divides by zero where no expert is correct; here such an image
    keeps the logits of `correctly_classified`.
    """
    known = request.require_experts("correctly_classified_mean")
    images, first = correctly_classified(request)
    total, count = torch.zeros_like(first), torch.zeros(len(first), 1)
    for expert in known.source.experts:
        logits = known.logits(expert, images)
        correct = (logits.argmax(dim=1) == request.labels)[:, None]
        total, count = total + logits * correct, count + correct
    return images, torch.where(count > 0, total / count.clamp(min=1), first)


def clusters_of(ipc: int, clusters: int | None) -> int:
    """Return the number of clusters per class: as given, which must divide ``ipc``, or one an image."""
    if clusters is not None and ipc % clusters:
        raise ValueError(f"clusters {clusters} does not divide ipc {ipc}; use --set clusters with a divisor of it")
    return clusters or ipc


def representative(request: Request) -> tuple[Tensor, Tensor]:
    """Select the images nearest to the centres of each class's clusters in an expert's feature space; see `Start`.

    Each of ``experts.clusters`` clusters per class gives ipc / clusters images, as a whole number; None makes ipc
    clusters.

    Reference:
        Shen et al., arXiv 2310.10541, section IV-C1, and V-A for 10 clusters at ipc 50.

    Differs:
        The official code clusters logits; the paper, and this, the features before the last layer.
    """
    known, rng = request.require_experts("representative"), request.rng
    clusters = clusters_of(request.ipc, known.clusters)
    each, expert = request.ipc // clusters, known.pick(rng)
    return by_distance(
        request, request.classes(), expert, lambda points: nearest(centres(points, clusters, rng), points, each)
    )


INITIAL: dict[str, Start] = {
    "real": real,
    "noise": noise,
    "correctly_classified": correctly_classified,
    "correctly_classified_mean": correctly_classified_mean,
    "real_soft": real_soft,
    "rded": rded,
    "representative": representative,
    **{name: start for name, start in CORESETS.items() if name != "random"},  # which is "real" here
}
"""The starts by name."""

NEED_EXPERTS = frozenset({*SOFT_LABELS, "representative", "forgetting", "glister"})
"""Starts that need experts; the others use them where there are some, or not at all."""

MEASURE_DISTANCES = BY_DISTANCE | {"kmeans"}
"""Starts that measure distances: between an expert's features where there are experts, else between pixels."""
