"""Centres of clusters, and the points nearest to them."""

import numpy as np
import pytest
import torch

from raydd.numerics.rng import generator
from raydd.selection.coresets import centres, nearest


def points(count, size=3, seed=0):
    return torch.randn(count, size, generator=generator(seed, "points"))


def served(middles, rows, each):
    """The closest pair of a centre that wants more and a point that is free, over and over, by plain loops."""
    chosen, free = [[] for _ in middles], set(range(len(rows)))
    while any(len(mine) < each for mine in chosen):
        pairs = [
            (float(((middle - rows[row]) ** 2).sum()), place, row)
            for place, middle in enumerate(middles)
            if len(chosen[place]) < each
            for row in free
        ]
        _, place, row = min(pairs)
        chosen[place].append(row)
        free.remove(row)
    return [row for mine in chosen for row in mine]


@pytest.mark.parametrize(("count", "each"), [(1, 1), (1, 5), (4, 1), (4, 3), (4, 5), (20, 1)])
def test_the_closest_pairs_are_served_first(count, each):
    found = nearest(points(count, seed=1), points(20), each)
    assert found.tolist() == served(points(count, seed=1).double(), points(20).double(), each)
    assert len(set(found.tolist())) == count * each


def test_one_centre_takes_its_own_in_order_of_distance():
    line = torch.tensor([[5.0], [1.0], [9.0], [2.0], [-4.0]])
    assert nearest(torch.tensor([[0.0]]), line, each=4).tolist() == [1, 3, 4, 0]


def test_points_far_from_the_origin_are_told_apart():
    far = torch.tensor([[1e4 + 0.5], [1e4], [1e4 + 0.25]])  # squares of float32 would be equal
    assert nearest(torch.tensor([[1e4 + 0.2]]), far).tolist() == [2]


def test_centres_are_means_of_what_lies_nearest_to_them():
    rows = points(60)
    found = centres(rows, 5, generator(0))
    assert (found.shape, found.dtype) == ((5, 3), torch.float64)
    owner = torch.cdist(rows.double(), found).argmin(1)
    assert sorted(set(owner.tolist())) == [0, 1, 2, 3, 4]
    for place, centre in enumerate(found):
        torch.testing.assert_close(centre, rows.double()[owner == place].mean(0))


def test_clusters_that_lie_apart_are_found():
    groups = torch.arange(4).repeat_interleave(8)[:, None] * 100.0
    found = centres(groups + 0.1 * points(32, size=1), 4, generator(0))
    assert found.flatten().sort().values.tolist() == pytest.approx([0, 100, 200, 300], abs=0.2)


def test_centres_depend_on_their_generator_alone():
    rows, state = points(60), np.random.get_state()[1].tolist()
    first = centres(rows, 5, generator(0))
    np.random.seed(1)
    assert torch.equal(first, centres(rows, 5, generator(0)))
    assert any(not torch.equal(first, centres(rows, 5, generator(seed))) for seed in range(1, 4))
    np.random.seed(1)
    after = np.random.get_state()[1].tolist()
    centres(rows, 5, generator(0))
    assert np.random.get_state()[1].tolist() == after
    assert after != state


def test_as_many_centres_as_points_are_the_points():
    rows = points(6)
    found = nearest(centres(rows, 6, generator(0)), rows)
    assert sorted(found.tolist()) == [0, 1, 2, 3, 4, 5]
