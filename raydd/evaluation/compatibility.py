"""Checks that synthetic sets are of the real images that they are tested on.

Shapes: `N` images, `K` classes, `C H W` image, `D = C H W` pixels.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial

import torch
from torch import Tensor

from raydd.data.datasets import Dataset
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace

MEAN_TOLERANCE = 0.05
"""Largest difference of means, of pixels in [0, 1]: re-encoded copies and other splits of the same images differ far
less; digits, SVHN and CIFAR-10 differ more."""
STD_RATIO = 1.4
"""Largest ratio of standard deviations. The MTT family's values for CIFAR-10 must pass; the pixels have 1.3 times as
much."""
RAW = (-0.5, 1.5)
"""Range of raw01 pixels; learned ones leave [0, 1] a little."""
RAW_OUTLIERS = 0.01
"""A larger share of pixels outside `RAW` means that images are not raw."""
_CHUNK = 4096


def check_compatible(sets: Iterable[tuple[str, SyntheticSet]], work: Workspace, *, named: bool) -> None:
    """Refuse sets whose images, labels or preprocessing are not those of the real images.

    Where the user ``named`` the data set, sets may be of other files of the same images.
    """
    dataset, mean_image = work.dataset, cache(partial(_mean_image, work.dataset))
    for name, synset in sets:
        _check_classes(name, synset, dataset)
        _check_labels(name, synset, dataset)
        source = synset.provenance.get("fingerprint")
        if not named and source not in (None, dataset.fingerprint):
            raise ValueError(
                f"{name} was distilled from {synset.dataset} with fingerprint {source!r}, {dataset.name} has "
                f"{dataset.fingerprint!r}; evaluate sets of one data set at a time, or name --dataset on purpose"
            )
        _check_images(name, synset, dataset)
        _CHECKS[synset.transform.kind](name, synset, dataset, mean_image)


def _check_classes(name: str, synset: SyntheticSet, dataset: Dataset) -> None:
    """Require the same image shape, and the same class names in the same order unless one side has plain numbers."""
    shape = (dataset.channels, dataset.size, dataset.size)
    if tuple(synset.images.shape[1:]) != shape or len(synset.classes) != len(dataset.classes):
        raise ValueError(
            f"{name} has images {tuple(synset.images.shape[1:])} of {len(synset.classes)} classes, "
            f"{dataset.name} has {shape} of {len(dataset.classes)}; name its own --dataset"
        )
    if any(all(word.isdecimal() for word in classes) for classes in (synset.classes, dataset.classes)):
        return
    for index, (own, wanted) in enumerate(zip(synset.classes, dataset.classes, strict=True)):
        if own != wanted:
            raise ValueError(
                f"{name} has {own!r} as class {index}, {dataset.name} has {wanted!r}; name its own --dataset"
            )


def _check_labels(name: str, synset: SyntheticSet, dataset: Dataset) -> None:
    labels, last = synset.labels, len(dataset.classes) - 1
    if synset.label_kind != "hard":
        if broken := int((~torch.isfinite(labels)).sum()):
            raise ValueError(
                f"{name} has {broken} soft labels that are not finite, for the {last + 1} classes of {dataset.name}; "
                "its distillation failed, make it again"
            )
        return
    if labels.is_floating_point():
        raise ValueError(
            f"{name} has hard labels of {labels.dtype}, {dataset.name} has the classes 0 to {last}; give whole numbers"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= last:
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(
            f"{name} has the labels {low} to {high}, {dataset.name} has the classes 0 to {last}; name its own --dataset"
        )


def _check_images(name: str, synset: SyntheticSet, dataset: Dataset) -> None:
    if not len(synset.images):
        raise ValueError(f"{name} has no images, for the {len(dataset.classes)} classes of {dataset.name}")
    if broken := int((~torch.isfinite(synset.images)).sum()):
        raise ValueError(
            f"{name} has {broken} pixels that are not finite, {dataset.name} has none; "
            "its distillation failed, make it again"
        )


Check = Callable[[str, SyntheticSet, Dataset, Callable[[], Tensor]], None]
"""(name of the set, the set, the real images, their mean image): raises ValueError."""


def _check_normalise(name: str, synset: SyntheticSet, dataset: Dataset, mean_image: Callable[[], Tensor]) -> None:
    """Require about the data set's mean and standard deviation of every channel."""
    mean, std = (synset.transform.tensors[key].detach().cpu().double().flatten() for key in ("mean", "std"))
    wanted = torch.tensor([dataset.mean, dataset.std], dtype=torch.float64)
    if mean.shape == std.shape == wanted[0].shape:
        ratio = std / wanted[1]
        near = (mean - wanted[0]).abs() <= MEAN_TOLERANCE
        if bool((near & (ratio <= STD_RATIO) & (ratio >= 1 / STD_RATIO)).all()):
            return
    own_mean, own_std, data_mean, data_std = (
        f"({', '.join(f'{value:.3f}' for value in values.tolist())})" for values in (mean, std, *wanted)
    )
    raise ValueError(
        f"{name} was normalised with mean {own_mean} and std {own_std}, {dataset.name} has mean "
        f"{data_mean} and std {data_std}; name its own --dataset"
    )


def _check_zca(name: str, synset: SyntheticSet, dataset: Dataset, mean_image: Callable[[], Tensor]) -> None:
    """Require a whitening of as many pixels, and of images with about the same mean."""
    mean, matrix = (synset.transform.tensors[key].detach().cpu() for key in ("mean", "matrix"))
    pixels = dataset.channels * dataset.size**2
    if mean.numel() != pixels or tuple(matrix.shape) != (pixels, pixels):
        raise ValueError(
            f"{name} was whitened by zca of {mean.numel()} pixels with a matrix {tuple(matrix.shape)}, "
            f"{dataset.name} has {pixels} pixels an image; name its own --dataset"
        )
    distance = float((mean.double().flatten() - mean_image()).abs().mean())
    if not distance <= MEAN_TOLERANCE:
        raise ValueError(
            f"{name} was whitened by zca of images with mean {float(mean.double().mean()):.3f}, {dataset.name} has "
            f"mean {float(mean_image().mean()):.3f}, {distance:.3f} apart a pixel; name its own --dataset"
        )


def _check_raw(name: str, synset: SyntheticSet, dataset: Dataset, mean_image: Callable[[], Tensor]) -> None:
    """Require that nearly all pixels are about in [0, 1]."""
    low, high = RAW
    share = float(((synset.images < low) | (synset.images > high)).double().mean())
    if share > RAW_OUTLIERS:
        raise ValueError(
            f"{name} is said to be raw01 and has pixels {float(synset.images.min()):.3g} to "
            f"{float(synset.images.max()):.3g}, {share:.0%} of them outside {low} to {high}, "
            f"{dataset.name} has 0 to 1; give its preprocessing"
        )


_CHECKS: dict[str, Check] = {"normalise": _check_normalise, "zca": _check_zca, "raw01": _check_raw}


def _mean_image(dataset: Dataset) -> Tensor:
    """Return the mean of the training images, (D,) float64 in [0, 1]."""
    total = torch.zeros(dataset.channels * dataset.size**2, dtype=torch.float64)
    for rows in torch.arange(len(dataset.train)).split(_CHUNK):
        total += dataset.train.take(rows).flatten(1).sum(dim=0, dtype=torch.int64)
    return total / (255 * len(dataset.train))
