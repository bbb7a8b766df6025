"""Coresets: real images of the training split, and their classes, selected to represent each class.

A coreset is a `raydd.selection.class_sampler.Start`. Those by distances take the features of a sampled expert, or
preprocessed pixels where there are no experts.

Shapes: `n` images or points, `K` classes, `C H W` image, `D` numbers a point, `T` snapshots of an expert.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from raydd.selection.class_sampler import Request, Start, real


def herding_order(points: Tensor, count: int) -> Tensor:
    """Return rows (count,) of points (n, D), in the order in which herding picks them.

        i_k = argmin_i |mu - (x_{i_1} + ... + x_{i_{k-1}} + x_i) / k|,  mu the mean of all points.

    A pick costs O(n D). Of equally good points the first is taken. ``count`` is between 1 and n.

    Reference:
        Welling, Herding dynamical weights to learn, ICML 2009; in this form Rebuffi et al. (iCaRL),
        arXiv 1611.07725, algorithm 4.

    Differs:
        No point is picked twice; iCaRL normalises features, and this does not.

    >>> herding_order(torch.tensor([[0.0], [4.0], [5.0], [7.0]]), 3)
    tensor([1, 2, 0])
    """
    z, squares = _centred(points, count)
    total, chosen = torch.zeros_like(z[0]), list[int]()
    for _ in range(count):
        gap = squares + 2 * (z @ total)  # |total + z|^2 without the term that is equal for all points
        gap[chosen] = torch.inf
        chosen.append(int(gap.argmin()))
        total += z[chosen[-1]]
    return torch.tensor(chosen)


def kcenter_order(points: Tensor, count: int) -> Tensor:
    """Return rows (count,) of points (n, D), in the order in which greedy k-center picks them.

        i_1 = argmin_i |x_i - mu|,  i_k = argmax_i min_{j < k} |x_i - x_{i_j}|,  mu the mean of all points.

    The largest distance to a picked point is at most twice that of any other ``count`` points. A pick costs O(n D). Of
    equally good points the first is taken. ``count`` is between 1 and n.

    Reference:
        Sener and Savarese, arXiv 1708.00489, algorithm 1.

    Differs:
        The paper begins with labelled points; there are none here. Published comparisons begin at a random point
        (DeepCore, arXiv 2204.08499) or do not say where; the point nearest to the mean makes the selection
        deterministic.

    >>> kcenter_order(torch.tensor([[0.0], [4.0], [5.0], [7.0]]), 3)
    tensor([1, 0, 3])
    """
    z, squares = _centred(points, count)
    chosen, reach = [int(squares.argmin())], torch.full_like(squares, torch.inf)
    while len(chosen) < count:
        newest = chosen[-1]
        reach = torch.minimum(reach, squares - 2 * (z @ z[newest]) + squares[newest])
        reach[newest] = -torch.inf
        chosen.append(int(reach.argmax()))
    return torch.tensor(chosen)


def _centred(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return points (n, D) less their mean, and their squared norms (n,), in float64."""
    if not 1 <= count <= len(points):
        raise ValueError(f"{count} of {len(points)} points cannot be picked; ask for 1 to {len(points)}")
    z = points - points.mean(dim=0, dtype=torch.float64)
    return z, torch.linalg.vecdot(z, z)


def centres(points: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return the centres (count, D) of clusters of points (n, D), by scikit-learn's KMeans with k-means++."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    seed = int(torch.randint(2**31, (), generator=rng))
    with threadpool_limits(1):  # sums depend on the number of threads, which no setting controls
        model = KMeans(count, n_init=1, random_state=seed).fit(points.double().numpy())
    return torch.from_numpy(model.cluster_centers_)


def nearest(middles: Tensor, points: Tensor, each: int = 1) -> Tensor:
    """Return the rows (m * each,) of the points nearest to each centre, grouped by centre.

    No row is chosen twice: the closest pairs of centre and point come first, and a centre takes at most ``each``.

    >>> nearest(torch.tensor([[0.0], [9.0]]), torch.tensor([[8.0], [1.0], [5.0], [0.0]]), each=2)
    tensor([3, 1, 0, 2])
    """
    distances = torch.cdist(middles.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    chosen: list[list[int]] = [[] for _ in middles]
    for _ in range(len(middles) * each):
        centre, row = divmod(int(distances.argmin()), len(points))
        chosen[centre].append(row)
        distances[:, row] = torch.inf
        if len(chosen[centre]) == each:
            distances[centre] = torch.inf
    return torch.tensor([row for rows in chosen for row in rows])


def forgetting_counts(correct: Tensor) -> Tensor:
    """Return how often each image was forgotten, (n,): correct after one epoch, and wrong after the next.

    ``correct`` is (T, n), a row a snapshot in time. An image that was never correct counts T, more than any other.

    Reference:
        Toneva et al., arXiv 1812.05159, section 3; images never learned count as in its published code.

    Differs:
        The paper tests an image whenever it is in a batch, before the step; here all are tested after each epoch, and
        before the first.

    >>> forgetting_counts(torch.tensor([[1, 0], [0, 0], [1, 0], [0, 0]]) > 0)
    tensor([2, 4])
    """
    events = (correct[:-1] & ~correct[1:]).sum(dim=0)
    return torch.where(correct.any(dim=0), events, len(correct))


def by_distance(
    request: Request, classes: list[Tensor], expert: int | None, select: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the images of each class whose rows ``select`` takes from their points (n, D), and the classes.

    Points are an expert's features, or preprocessed pixels without one; ``classes`` has the rows of each class.
    """
    images = []
    for rows in classes:
        members = request.images(rows.sort().values)
        known = request.experts
        points = members.flatten(1) if known is None or expert is None else known.features(expert, members)
        images.append(members[select(points)])
    return torch.cat(images), request.labels


def _coreset(select: Callable[[Tensor, int, torch.Generator], Tensor]) -> Start:
    """Return the start with the images that ``select`` takes by the features of a sampled expert, or by pixels."""

    def start(request: Request) -> tuple[Tensor, Tensor]:
        classes, rng = request.classes(), request.rng
        expert = None if request.experts is None else request.experts.pick(rng)
        return by_distance(request, classes, expert, lambda points: select(points, request.ipc, rng))

    return start


kmeans = _coreset(lambda points, count, rng: nearest(centres(points, count, rng), points))
"""Select the images of each class nearest to the centres of ``ipc`` clusters, none of them twice."""
herding = _coreset(lambda points, count, rng: herding_order(points, count))
"""Select the images whose mean is closest to that of their class, by `herding_order`."""
kcenter = _coreset(lambda points, count, rng: kcenter_order(points, count))
"""Select the images that leave no other of their class far away, by `kcenter_order`."""


def forgetting(request: Request) -> tuple[Tensor, Tensor]:
    """Select the images of each class that the experts forgot most often in their training; see `Start`.

    Counts of `forgetting_counts` are summed over the experts; equal ones are in random order. Each snapshot of each
    expert classifies every training image, so that experts with missing snapshots are refused.

    Reference:
        Toneva et al., arXiv 1812.05159.

    Differs:
        The paper leaves out the images that are forgotten least; comparisons with dataset distillation select the most
        forgotten of each class, as here.
    """
    known, images = request.require_experts("forgetting"), []
    if known.source.kept is not None:
        epochs = ", ".join(map(str, known.source.kept))
        raise ValueError(f"forgetting needs the experts' snapshots of all epochs, not of {epochs}; give a full buffer")
    for label, rows in enumerate(request.classes()):
        members = request.images(rows)
        counts = [forgetting_counts(known.correct(expert, members, label)) for expert in known.source.experts]
        most = torch.argsort(torch.stack(counts).sum(dim=0), descending=True, stable=True)
        images.append(members[most[: request.ipc]])
    return torch.cat(images), request.labels


def glister_order(
    features: Tensor, errors: Tensor, others: "Others", count: int, lr: float = 1.0
) -> tuple[Tensor, "Others"]:
    """Return rows (count,) in the order of greedy picks, and the other images after the picks' gradient steps.

    A pick is the image whose gradient of the last layer agrees most with that of the others' mean loss; the others'
    logits then move by a gradient step on it. With the error e = softmax(logits) - one_hot and features f, the gradient
    of an image is e (f, 1)^T.

    Args:
        features: Of the images to pick from, (n, F).
        errors: Theirs, (n, K), which stay as they are.
        others: The images whose loss is to fall.
        count: Between 1 and n.
        lr: Of a step.

    Reference: Killamsetty et al., arXiv 2012.10630, Algorithm 2, with gradients of the last layer as in section 3.
    """
    chosen, free = list[int](), torch.ones(len(features), dtype=torch.bool)
    for _ in range(count):
        gap = (torch.softmax(others.logits, 1) - one_hot(others.labels, others.logits.shape[1])) / len(others.labels)
        gains = ((features @ (others.features.T @ gap) + gap.sum(0)) * errors).sum(1)
        chosen.append(int(torch.where(free, gains, -torch.inf).argmax()))
        free[chosen[-1]] = False
        alike = others.features @ features[chosen[-1]] + 1
        others = others._replace(logits=others.logits - lr * alike[:, None] * errors[chosen[-1]])
    return torch.tensor(chosen), others


class Others(NamedTuple):
    """Images whose loss a selection lowers: features (m, F), logits (m, K) and classes (m,)."""

    features: Tensor
    logits: Tensor
    labels: Tensor


def glister(request: Request) -> tuple[Tensor, Tensor]:
    """Select images of each class by `glister_order`, through one sampled expert; see `Start`.

    Reference:
        Killamsetty et al., arXiv 2012.10630.

    Differs:
        The loss to lower is that of up to `GLISTER_IMAGES` other training images, for validation images choose nothing
        here. Features are divided by their mean norm, so that a step of 1 is small. Classes are picked one by one.
    """
    known, classes = request.require_experts("glister"), request.classes()
    expert, each = known.pick(request.rng), max(1, GLISTER_IMAGES // len(classes))
    rows = torch.cat([members[-each:] for members in classes])
    images = request.images(rows)
    features = known.features(expert, images).double()
    scale = features.norm(dim=1).mean()
    others = Others(features / scale, known.logits(expert, images).double(), request.dataset.train.targets[rows])
    chosen = []
    for label, members in enumerate(classes):
        images = request.images(members)
        errors = torch.softmax(known.logits(expert, images).double(), 1)
        errors[:, label] -= 1
        points = known.features(expert, images).double() / scale
        order, others = glister_order(points, errors, others, request.ipc)
        chosen.append(images[order])
    return torch.cat(chosen), request.labels


GLISTER_IMAGES = 1000
CORESETS: dict[str, Start] = {
    "random": real,
    "kmeans": kmeans,
    "herding": herding,
    "kcenter": kcenter,
    "forgetting": forgetting,
    "glister": glister,
}
"""Selections of real images by name."""

SEEDED = frozenset({"random", "kmeans"})
"""Coresets whose selection depends on the seed."""

BY_DISTANCE = frozenset({"herding", "kcenter"})
"""Coresets by distances, which baselines measure between features where there are experts."""
