import numpy as np
import pytest
import torch

from raydd.figures import landscape
from raydd.figures.landscape import principal_plane


def points(count=7, size=11, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) + 3


def naive(rows):
    """The two axes and their share, from the covariance matrix (P, P)."""
    rows = rows.double().numpy()
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    axes = vectors[:, ::-1][:, :2].T
    ends = axes @ (rows[-1] - rows.mean(axis=0))
    return axes * np.where(ends < 0, -1, 1)[:, None], values[::-1][:2] / values.sum()


@pytest.mark.parametrize("chunk", [4, 11, 100])
def test_the_plane_is_that_of_the_covariance_matrix(chunk, monkeypatch):
    monkeypatch.setattr(landscape, "CHUNK", chunk)
    rows = points()
    plane, (axes, explained) = principal_plane(rows), naive(rows)
    np.testing.assert_allclose(plane.axes, axes, atol=1e-12)
    np.testing.assert_allclose(plane.explained, explained, atol=1e-12)
    others = points(3, seed=1)
    expected = [[axis @ (row - plane.centre.numpy()) for axis in axes] for row in others.double().numpy()]
    np.testing.assert_allclose(plane.project(others), expected, atol=1e-12)


def test_points_of_a_plane_keep_their_distances():
    basis = torch.linalg.qr(points(9, 2).double())[0]
    flat = torch.tensor([[0.0, 0.0], [1.0, 2.0], [4.0, 1.0], [6.0, 6.0]], dtype=torch.float64)
    plane = principal_plane(flat @ basis.T + 5)
    found = plane.project(flat @ basis.T + 5)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(flat, flat))
    assert float(plane.explained.sum()) == pytest.approx(1)
    assert (found[-1] >= 0).all()


@pytest.mark.parametrize(("rows", "explained"), [([[1.0, 2.0]], [0, 0]), ([[3.0, 3.0]] * 4, [0, 0])])
def test_points_without_variance_have_no_plane(rows, explained):
    plane = principal_plane(torch.tensor(rows))
    assert plane.explained.tolist() == explained
    assert plane.project(torch.tensor([[9.0, -9.0]])).tolist() == [[0, 0]]


def test_points_on_a_line_have_one_axis():
    line = torch.outer(torch.tensor([0.0, 1.0, 5.0]), torch.tensor([3.0, 0.0, 4.0]))
    plane = principal_plane(line)
    torch.testing.assert_close(plane.axes[0], torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64))
    assert plane.axes[1].tolist() == [0, 0, 0]
    torch.testing.assert_close(plane.explained, torch.tensor([1.0, 0.0], dtype=torch.float64))
