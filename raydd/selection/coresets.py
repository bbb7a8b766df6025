"""Real images chosen to stand for a whole class.

A coreset is a `raydd.selection.class_sampler.Start`: images of the training split, and their classes.

Shapes: `n` images or points, `K` classes, `C H W` image, `D` numbers a point, `T` snapshots of an expert.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raydd.data.datasets import Dataset
from raydd.data.preprocessing import Transform
from raydd.selection.class_sampler import Experts, Start, in_class_order, needed, real, shuffled_classes
from raydd.selection.kmeans import centres, nearest


def herd(points: Tensor, count: int) -> Tensor:
    """Rows (count,) of points (n, D), in the order in which herding picks them.

        i_k = argmin_i |mu - (x_{i_1} + ... + x_{i_{k-1}} + x_i) / k|,  mu the mean of all points.

    A pick costs O(n D). Of equally good points the first is taken.

    Raises:
        ValueError: If ``count`` is not between 1 and n.

    Reference:
        Welling, Herding dynamical weights to learn, ICML 2009; in this form Rebuffi et al. (iCaRL),
        arXiv 1611.07725, algorithm 4.

    Differs:
        No point is picked twice, and iCaRL's features have norm 1 while these are taken as they are.

    >>> herd(torch.tensor([[0.0], [4.0], [5.0], [7.0]]), 3)
    tensor([1, 2, 0])
    """
    z, squares = _about_the_mean(points, count)
    total, chosen = torch.zeros_like(z[0]), list[int]()
    for _ in range(count):
        gap = squares + 2 * (z @ total)  # |total + z|^2, less what it is the same for all points
        gap[chosen] = torch.inf
        chosen.append(int(gap.argmin()))
        total += z[chosen[-1]]
    return torch.tensor(chosen)


def spread(points: Tensor, count: int) -> Tensor:
    """Rows (count,) of points (n, D), in the order in which greedy k-center picks them.

        i_1 = argmin_i |x_i - mu|,  i_k = argmax_i min_{j < k} |x_i - x_{i_j}|,  mu the mean of all points.

    The farthest point is at most twice as far from the picked ones as from any other ``count`` points. A pick
    costs O(n D). Of equally good points the first is taken.

    Raises:
        ValueError: If ``count`` is not between 1 and n.

    Reference:
        Sener and Savarese, arXiv 1708.00489, algorithm 1.

    Differs:
        The paper begins with points that have labels already, and there are none here. Published comparisons
        begin at a random point (DeepCore, arXiv 2204.08499) or do not say where; the point nearest to the mean
        makes the choice one without chance.

    >>> spread(torch.tensor([[0.0], [4.0], [5.0], [7.0]]), 3)
    tensor([1, 0, 3])
    """
    z, squares = _about_the_mean(points, count)
    chosen, reach = [int(squares.argmin())], torch.full_like(squares, torch.inf)
    while len(chosen) < count:
        newest = chosen[-1]
        reach = torch.minimum(reach, squares - 2 * (z @ z[newest]) + squares[newest])
        reach[newest] = -torch.inf
        chosen.append(int(reach.argmax()))
    return torch.tensor(chosen)


def _about_the_mean(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Points (n, D) less their mean, and the squares (n,) of what is left, in float64."""
    if not 1 <= count <= len(points):
        raise ValueError(f"{count} of {len(points)} points cannot be picked; ask for 1 to {len(points)}")
    z = points - points.mean(dim=0, dtype=torch.float64)
    return z, torch.linalg.vecdot(z, z)


def forgotten(right: Tensor) -> Tensor:
    """How often each image was forgotten, (n,): right after one epoch, and wrong after the next.

    Args:
        right: Whether the network was right about each image, (T, n), a row a snapshot in time.

    Returns:
        Counts; T for an image that it was never right about, more than any count.

    Reference:
        Toneva et al., arXiv 1812.05159, section 3; images never learned count as in its published code.

    Differs:
        The paper asks about an image whenever it is in a batch, before the step; here all are asked at the end
        of an epoch, and before the first.

    >>> forgotten(torch.tensor([[1, 0], [0, 0], [1, 0], [0, 0]]) > 0)
    tensor([2, 4])
    """
    events = (right[:-1] & ~right[1:]).sum(dim=0)
    return torch.where(right.any(dim=0), events, len(right))


def kmeans(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """For each class the training images nearest to the centres of ``ipc`` clusters.

    Clusters are of a sampled expert's features, or of preprocessed pixels where there are no experts. No image is
    chosen twice: where centres share their nearest one, the closest has it.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """

    def choose(points: Tensor, count: int) -> Tensor:
        return nearest(centres(points, count, rng), points)

    return _chosen(dataset, transform, ipc, rng, experts, choose)


def herding(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """For each class the training images whose mean comes closest to that of the class; see `herd`.

    Of a sampled expert's features, or of preprocessed pixels where there are no experts.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """
    return _chosen(dataset, transform, ipc, rng, experts, herd)


def kcenter(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """For each class the training images that leave none of it far away; see `spread`.

    Of a sampled expert's features, or of preprocessed pixels where there are no experts.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If a class has fewer than ``ipc`` training images.
    """
    return _chosen(dataset, transform, ipc, rng, experts, spread)


def _chosen(
    dataset: Dataset,
    transform: Transform,
    ipc: int,
    rng: torch.Generator,
    experts: Experts | None,
    choose: Callable[[Tensor, int], Tensor],
) -> tuple[Tensor, Tensor]:
    """The images of each class whose rows ``choose`` takes from their points (n, D)."""
    classes, images = shuffled_classes(dataset, ipc, rng), []
    expert = None if experts is None else experts.pick(rng)
    for rows in classes:
        members = transform(dataset.train.take(rows.sort().values))
        points = members.flatten(1) if experts is None or expert is None else experts.features(expert, members)
        images.append(members[choose(points, ipc)])
    return torch.cat(images), in_class_order(dataset, ipc)


def forgetting(
    dataset: Dataset, transform: Transform, ipc: int, rng: torch.Generator, experts: Experts | None = None
) -> tuple[Tensor, Tensor]:
    """For each class the training images that the experts forgot most often in their training; see `forgotten`.

    Counts are summed over the experts, and drawn by lot where they are equal. Each snapshot of each expert is
    asked about every training image.

    Returns:
        Preprocessed images (K ipc, C, H, W) and classes (K ipc,), in class order.

    Raises:
        ValueError: If there are no experts, if they lack snapshots, or if a class has fewer than ``ipc`` training
            images.

    Reference:
        Toneva et al., arXiv 1812.05159.

    Differs:
        The paper leaves out the images that are forgotten least; to choose the most forgotten of each class is
        what comparisons with dataset distillation make of it.
    """
    asked, images = needed(experts, "forgetting"), []
    if asked.source.kept is not None:
        shown = ", ".join(map(str, asked.source.kept))
        raise ValueError(f"forgetting needs the experts' snapshots of all epochs, not of {shown}; give a full buffer")
    for label, rows in enumerate(shuffled_classes(dataset, ipc, rng)):
        members = transform(dataset.train.take(rows))
        counts = [forgotten(asked.right(expert, members, label)) for expert in asked.source.experts]
        most = torch.argsort(torch.stack(counts).sum(dim=0), descending=True, stable=True)
        images.append(members[most[:ipc]])
    return torch.cat(images), in_class_order(dataset, ipc)


CORESETS: dict[str, Start] = {
    "random": real,
    "kmeans": kmeans,
    "herding": herding,
    "kcenter": kcenter,
    "forgetting": forgetting,
}
"""Selections of real images by name."""

DRAWN = frozenset({"random", "kmeans"})
"""The coresets that are others with every seed; the rest are the same, or all but."""

MEASURED = frozenset({"herding", "kcenter"})
"""The coresets that are chosen by distances, which baselines take between features where there are experts."""
