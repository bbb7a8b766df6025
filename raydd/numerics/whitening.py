"""ZCA whitening: fit, apply, invert.

Shapes: `N` images, `B` batch, `C H W` image, `D = C H W` pixels.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Whitening:
    """A fitted whitening, ``z = (x - mean) matrix``, and its inverse, ``x = z inverse + mean``.

    Attributes:
        mean: Mean image (D,).
        matrix: Symmetric whitening matrix (D, D), ``U (S + eps)^(-1/2) U^T``.
        inverse: Its inverse (D, D), ``U (S + eps)^(1/2) U^T``.
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return whitened images (B, C, H, W) of images x (B, C, H, W) in [0, 1], on x's device and in its dtype."""
        flat = self._flat(x)
        return ((flat - self.mean.to(flat)) @ self.matrix.to(flat)).view(x.shape)

    def invert(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1], not clamped, of whitened images x; raises as `apply`."""
        flat = self._flat(x)
        return (flat @ self.inverse.to(flat) + self.mean.to(flat)).view(x.shape)

    def _flat(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] != self.mean.numel():
            raise ValueError(
                f"an image has {flat.shape[1]} pixels, but ZCA was fitted on {self.mean.numel()}: "
                "use the data set and size of the fit, or fit again"
            )
        return flat


def fit_zca(images: Tensor, eps: float = 0.1) -> Whitening:
    """Fit ZCA to images, exactly as kornia's `ZCAWhitening` does, in float64.

    ``mean = sum_i x_i / N``, ``Sigma = sum_i (x_i - mean)(x_i - mean)^T / (N - 1) = U S U^T``,
    ``matrix = U (S + eps)^(-1/2) U^T``.

    Images are (N, C, H, W) in [0, 1], without mean/std normalisation. The whitening has their dtype and device; the fit
    needs two float64 copies of them.

    Reference: arXiv 2203.11932 (MTT), which takes it with eps = 0.1 from arXiv 2107.13034 (KIP).
    Differs: The official code fits in float32; this one in float64, then rounds.

    >>> import torch
    >>> x = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    >>> zca = fit_zca(x)
    >>> bool(torch.allclose(zca.invert(zca.apply(x)), x, atol=1e-5))
    True
    """
    from kornia.enhance import ZCAWhitening

    if len(images) < 2:
        raise ValueError(f"ZCA needs at least two images, not {len(images)}: use a larger data set")
    fitted = ZCAWhitening(eps=float(eps), compute_inv=True).fit(images.detach().double())
    return Whitening(
        fitted.mean_vector.flatten().to(images), fitted.transform_matrix.to(images), fitted.transform_inv.to(images)
    )
