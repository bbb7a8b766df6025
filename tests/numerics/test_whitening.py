import numpy as np
import pytest
import torch

from raydd.numerics.whitening import Whitening, fit_zca


def images(count: int, *shape: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    base = torch.rand(count, *shape, generator=rng, dtype=torch.float64)
    return (base + base.roll(1, -1)) / 2  # neighbouring pixels correlate, as in pictures


def by_formula(x: torch.Tensor, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    flat = x.numpy().reshape(len(x), -1)
    mean = flat.sum(0) / len(flat)
    covariance = np.zeros((flat.shape[1], flat.shape[1]))
    for row in flat:
        covariance += np.outer(row - mean, row - mean)
    values, vectors = np.linalg.eigh(covariance / (len(flat) - 1))
    matrix = vectors @ np.diag((values + eps) ** -0.5) @ vectors.T
    inverse = vectors @ np.diag((values + eps) ** 0.5) @ vectors.T
    return mean, matrix, inverse


@pytest.mark.rows("eps", [0.1, 0.01])
@pytest.mark.rows("count", [60, 9], ids=["more images than pixels", "fewer"])
def test_equals_the_eigenvalue_formula(count: int, eps: float) -> None:
    x = images(count, 3, 3, 2)
    mean, matrix, inverse = by_formula(x, eps)
    zca = fit_zca(x, eps)
    np.testing.assert_allclose(zca.mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(zca.matrix.numpy(), matrix, rtol=0, atol=1e-10)
    np.testing.assert_allclose(zca.inverse.numpy(), inverse, rtol=0, atol=1e-10)
    expected = (x.numpy().reshape(count, -1) - mean) @ matrix
    np.testing.assert_allclose(zca.apply(x).numpy().reshape(count, -1), expected, rtol=0, atol=1e-10)


def test_equals_kornia() -> None:
    from kornia.enhance import ZCAWhitening

    x = images(40, 1, 4, 4)
    reference = ZCAWhitening(eps=0.1, compute_inv=True).fit(x)
    zca = fit_zca(x)
    torch.testing.assert_close(zca.apply(x), reference(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(zca.invert(x), reference.inverse_transform(x), rtol=0, atol=1e-12)


@pytest.mark.rows(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_round_trip_keeps_shape_and_dtype(dtype: torch.dtype, tolerance: float) -> None:
    x = images(30, 3, 4, 4).to(dtype)
    zca = fit_zca(x)
    assert zca.mean.dtype == zca.matrix.dtype == zca.inverse.dtype == dtype
    white = zca.apply(x)
    assert white.shape == x.shape
    assert white.dtype == dtype
    assert not torch.allclose(white, x, atol=0.1)
    torch.testing.assert_close(zca.invert(white), x, rtol=0, atol=tolerance)


def test_float32_input_is_fitted_in_float64() -> None:
    x = images(50, 1, 4, 4).float()
    exact = fit_zca(x.double())
    assert torch.equal(fit_zca(x).matrix, exact.matrix.float())


def test_a_small_eps_whitens() -> None:
    x = images(400, 1, 3, 3)
    white = fit_zca(x, 1e-12).apply(x).flatten(1)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-6)


def test_gradients_reach_the_images() -> None:
    x = images(10, 1, 2, 2).requires_grad_()
    zca = fit_zca(x)
    assert not zca.matrix.requires_grad
    (gradient,) = torch.autograd.grad(zca.apply(x).sum(), x)
    torch.testing.assert_close(gradient.flatten(1)[0], zca.matrix.sum(1))


def test_other_pixels_are_refused() -> None:
    zca = fit_zca(images(10, 1, 2, 2))
    for call in (zca.apply, zca.invert):
        with pytest.raises(ValueError, match=r"9 pixels, but ZCA was fitted on 4"):
            call(torch.zeros(2, 1, 3, 3))


def test_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two images"):
        fit_zca(torch.zeros(1, 1, 2, 2))


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    x = images(60, 3, 4, 4)
    there: Whitening = fit_zca(x.cuda())
    assert there.matrix.is_cuda
    torch.testing.assert_close(there.apply(x.cuda()).cpu(), fit_zca(x).apply(x), rtol=0, atol=1e-9)
