"""Preprocessing as an object that is saved with every buffer and synthetic set."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydd.data.datasets import Dataset
from raydd.io.tensor_file import load_tensors, save_tensors
from raydd.numerics.whitening import Whitening, fit_zca

Arrays = Mapping[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """One kind of preprocessing."""

    arrays: tuple[str, ...]  # names of the fitted arrays
    fit: Callable[[Dataset], dict[str, Tensor]]
    forward: Callable[[Arrays, Tensor], Tensor]  # images in [0, 1] (B, C, H, W) -> a network's input
    inverse: Callable[[Arrays, Tensor], Tensor]


def _statistics(dataset: Dataset) -> dict[str, Tensor]:
    return {
        "mean": torch.tensor(dataset.mean, dtype=torch.float64),
        "std": torch.tensor(dataset.std, dtype=torch.float64),
    }


def _normalise(arrays: Arrays, x: Tensor) -> Tensor:
    return (x - arrays["mean"].to(x)[:, None, None]).div_(arrays["std"].to(x)[:, None, None])


def _denormalise(arrays: Arrays, x: Tensor) -> Tensor:
    return x * arrays["std"].to(x)[:, None, None] + arrays["mean"].to(x)[:, None, None]


def _zca(dataset: Dataset) -> dict[str, Tensor]:
    images = dataset.train.take(torch.arange(len(dataset.train)))
    return dict(vars(fit_zca(images.float().div_(255))))


KINDS: dict[str, Kind] = {
    "normalise": Kind(("mean", "std"), _statistics, _normalise, _denormalise),
    "zca": Kind(
        ("mean", "matrix", "inverse"),
        _zca,
        lambda arrays, x: Whitening(**arrays).apply(x),
        lambda arrays, x: Whitening(**arrays).invert(x),
    ),
    "raw01": Kind((), lambda dataset: {}, lambda arrays, x: x, lambda arrays, x: x),
}


@dataclass(frozen=True, eq=False)
class Transform:
    """Images -> a network's input, and back.

    ``normalise`` is ``(x / 255 - mean) / std`` with the data set's statistics, ``zca`` whitens ``x / 255`` (fitted on
    the train split, without normalisation), ``raw01`` is ``x / 255``.
    """

    kind: str
    tensors: Arrays = field(default_factory=dict)
    dtype: torch.dtype = torch.float32  # least precise type of the result

    def __call__(self, x: Tensor) -> Tensor:
        """Return a network's input (B, C, H, W), on the device of the images x.

        They are uint8 in 0..255, or floating point in [0, 1], to which gradients flow.
        """
        wide = self._wide(x)
        return KINDS[self.kind].forward(self.tensors, wide if x.is_floating_point() else wide.div_(255))

    def inverse(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1], not clamped, of a network's input x."""
        return KINDS[self.kind].inverse(self.tensors, self._wide(x))

    def _wide(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, self.dtype))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Transform":
        """Return the transform on a device, or with results of another type; its arrays, and `hash`, do not change."""
        moved = {name: tensor.to(device=device) for name, tensor in self.tensors.items()}
        return Transform(self.kind, moved, dtype or self.dtype)

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the kind and the arrays' names, types, shapes and bytes; 16 hex digits."""
        digest = hashlib.sha256(self.kind.encode())
        for name in KINDS[self.kind].arrays:
            array = self.tensors[name].detach().cpu().contiguous().numpy()
            digest.update(f"|{name} {array.dtype} {array.shape}|".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def metadata(self) -> dict[str, Any]:
        """Return the kind and the hash, for JSON."""
        return {"kind": self.kind, "hash": self.hash}

    def arrays(self) -> dict[str, Tensor]:
        """Return the fitted arrays by name, on the CPU."""
        return {name: self.tensors[name].detach().cpu() for name in KINDS[self.kind].arrays}

    @staticmethod
    def restore(metadata: Mapping[str, Any], arrays: Arrays, prefix: str = "") -> "Transform":
        """Return the transform of `metadata` and `arrays`, whose names begin with ``prefix``; refuse another hash."""
        kind = _known(str(metadata.get("kind")))
        missing = [name for name in KINDS[kind].arrays if prefix + name not in arrays]
        if missing:
            raise ValueError(f"the preprocessing {kind!r} lacks its array {missing[0]!r}: write the file again")
        transform = Transform(kind, {name: arrays[prefix + name] for name in KINDS[kind].arrays})
        _check_arrays(transform)
        if transform.hash != metadata.get("hash"):
            raise ValueError(
                f"the preprocessing {kind!r} has the hash {transform.hash}, not {str(metadata.get('hash'))[:40]!r}: "
                "the file is damaged, write it again"
            )
        return transform

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse images (C, H, W) of other channels, or of another number of pixels, than the fitted ones."""
        wanted = {"normalise": shape[0], "zca": math.prod(shape)}.get(self.kind)
        if wanted is not None and self.tensors["mean"].numel() != wanted:
            fitted = self.tensors["mean"].numel()
            raise ValueError(f"images {tuple(shape)} do not fit the preprocessing {self.kind!r} of {fitted} means")


def _check_arrays(transform: Transform) -> None:
    """Refuse arrays that are no preprocessing of their kind."""
    arrays, kind = transform.tensors, transform.kind
    for name, array in arrays.items():
        if not array.is_floating_point() or array.dtype == torch.bfloat16 or not bool(torch.isfinite(array).all()):
            raise ValueError(f"the preprocessing {kind!r} has {name} of {array.dtype}, or that is not finite")
    size = arrays["mean"].numel() if arrays else 0
    fits = not arrays or size > 0
    if kind == "normalise":
        fits = fits and arrays["mean"].ndim == 1 and arrays["std"].shape == (size,) and bool((arrays["std"] > 0).all())
    elif kind == "zca":
        fits = fits and arrays["matrix"].shape == arrays["inverse"].shape == (size, size)
    if not fits:
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"the preprocessing {kind!r} has arrays that do not belong together: {shapes}")


def fit_transform(kind: str, dataset: Dataset) -> Transform:
    """Fit the preprocessing of a kind to a data set; ZCA uses all of the train split."""
    return Transform(_known(kind), KINDS[_known(kind)].fit(dataset))


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"unknown preprocessing {kind[:40]!r}: use one of {', '.join(KINDS)}")
    return kind


def save_transform(folder: Path, transform: Transform) -> None:
    """Write a buffer's preprocessing beside its experts."""
    save_tensors(folder / "preprocessing.arrow", transform.arrays(), transform.metadata())


def load_transform(folder: Path) -> Transform:
    """Read a buffer's preprocessing; refuse a missing or damaged file."""
    path = folder / "preprocessing.arrow"
    arrays, metadata = load_tensors(path)
    try:
        return Transform.restore(metadata, arrays)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from None
