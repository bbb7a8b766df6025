"""K-means: cluster centres, and the points nearest to them."""

import torch
from torch import Tensor


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
