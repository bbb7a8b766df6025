"""Image sets by name or path, decoded once to memory-mapped uint8 arrays."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydd.config.names import check_name
from raydd.config.parsing import build
from raydd.config.schema import DataConfig
from raydd.data.folder_reader import find_folder
from raydd.data.image_cache import CachedImages, open_cached
from raydd.data.image_source import Form, Images, Labels, Source, holdout
from raydd.data.labels import missing_classes
from raydd.data.named_sets import SUBSETS, find_digits, find_imagenet, find_tiny_imagenet, find_torchvision
from raydd.data.npz_reader import find_npz
from raydd.data.parquet_reader import find_parquet, parquet_files
from raydd.io.paths import default_cache
from raydd.io.pulse import PULSE
from raydd.plugins import Table


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of stored images."""

    images: Images  # the whole stored file (n, C, H, W), uint8, memory-mapped and read-only
    labels: Labels  # classes of the whole file (n,)
    index: NDArray[np.int64]  # the rows of the file in this split, ascending

    def __len__(self) -> int:
        return len(self.index)

    @property
    def targets(self) -> Tensor:
        """Classes of this split, int64 (len,)."""
        return torch.from_numpy(self.labels[self.index])

    def take(self, rows: Tensor | NDArray[np.int64]) -> Tensor:
        """Return a copy of images, uint8 (B, C, H, W), on the CPU; ``rows`` (B,) count within the split."""
        positions = torch.as_tensor(rows).cpu().numpy()
        return torch.from_numpy(np.asarray(self.images[self.index[positions]]))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image set."""

    name: str  # registered name, or the last part of the path
    classes: tuple[str, ...]  # names of the K classes, in label order
    mean: tuple[float, ...]  # mean of each channel, pixels in [0, 1]
    std: tuple[float, ...]  # standard deviation of each channel
    flip: bool  # whether training may mirror images: the classes allow it, or the user asks for it
    train: Split  # training images without the validation split
    validation: Split  # training images held out for choosing; the same in every run
    test: Split
    fingerprint: str  # sha256 of the stored bytes, 16 hex digits
    note: str = ""  # decisions of the reader, for example how it made a test split

    @property
    def channels(self) -> int:
        """Channels of an image, C."""
        return int(self.train.images.shape[1])

    @property
    def size(self) -> int:
        """Height and width of an image in pixels."""
        return int(self.train.images.shape[2])


@dataclass(frozen=True)
class Row:
    """A registered data set.

    Attributes:
        classes: Their number.
        channels: Channels of an image.
        size: Height and width in pixels; the default size in the cache.
        mean: Mean of each channel, pixels in [0, 1].
        std: Standard deviation of each channel.
        flip: Whether an image may be mirrored without changing its class.
        find: Finds the files below the folder of raw data, or raises an error that says how to get them.
        resize: Whether the files' images must be resized to ``size``.
    """

    classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    find: Callable[[Path], Source]
    resize: bool = False


CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # the MTT family's, for CIFAR-100 too
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SVHN = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))  # this and MNIST's are the DC family's


_SHIPPED = {
    "digits": Row(10, 1, 8, (0.3053,), (0.3760,), False, find_digits),
    "mnist": Row(10, 1, 28, (0.1307,), (0.3081,), False, partial(find_torchvision, name="mnist")),
    "fashion_mnist": Row(10, 1, 28, (0.2861,), (0.3530,), True, partial(find_torchvision, name="fashion_mnist")),
    "svhn": Row(10, 3, 32, *SVHN, False, partial(find_torchvision, name="svhn")),
    "cifar10": Row(10, 3, 32, *CIFAR, True, partial(find_torchvision, name="cifar10")),
    "cifar100": Row(100, 3, 32, *CIFAR, True, partial(find_torchvision, name="cifar100")),
    "tiny_imagenet": Row(200, 3, 64, *IMAGENET, True, find_tiny_imagenet),
    **{name: Row(10, 3, 128, *IMAGENET, True, partial(find_imagenet, name=name), resize=True) for name in SUBSETS},
}
DATASETS: Table[Row] = Table("DATASETS", Row, _SHIPPED)
"""The data sets that have a name: those of the distillation papers, and scikit-learn's digits, which need no download.

A script may add a row of its own; a path needs none.
"""


CONSTANT_NOTE = (
    "a channel is the same in all training pixels: its standard deviation 0 is taken as 1, and networks learn nothing "
    "from it"
)


def default_root() -> Path:
    """Return the folder of raw data: ``$RAYDD_DATA``, else ``~/.cache/raydd/data``."""
    return Path(os.environ.get("RAYDD_DATA") or "~/.cache/raydd/data").expanduser()


def load_dataset(
    name_or_path: str | Path,
    *,
    cache: Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    validation: float = 0.1,
    root: Path | None = None,
) -> Dataset:
    """Load a data set by registered name or path; it is decoded once and then opened from the cache.

    A path is a file or folder of Parquet in Hugging Face image layout, an ImageFolder, or an ``.npz`` with
    ``x_train, y_train, x_test, y_test``; its mean and standard deviation are those of its train split. Without test
    images, a fixed stratified 20 % is the test split.

    Args:
        name_or_path: A key of `DATASETS`, or a path. A name comes first; ``./digits`` is a path.
        cache: Folder of decoded data sets; ``$RAYDD_CACHE`` or ``~/.cache/raydd`` by default.
        size: Height and width in pixels that images are resized (shorter side) and centre-cropped to.
        channels: 1 reads all images as grey, 3 as RGB; None keeps the files' channels.
        validation: Part of each class of the training images that is held out, in [0, 1).
        root: Folder of raw data of the named data sets; ``$RAYDD_DATA`` or ``~/.cache/raydd/data``.

    Returns:
        The data set; its images are memory-mapped.

    Raises:
        ValueError: Unknown name, missing path, unreadable or unlabelled images; one line with the remedy.

    >>> digits = load_dataset("digits")
    >>> len(digits.classes), digits.channels, digits.size, len(digits.train), len(digits.validation), len(digits.test)
    (10, 1, 8, 1293, 145, 359)
    """
    build(DataConfig, {"size": size, "channels": channels, "validation": validation})
    name = str(name_or_path)
    row, source = DATASETS.get(name), find_source(name, root)
    if row and row.resize:
        size = size or row.size
    with PULSE.doing(f"reading {source.name}"):
        content = open_cached(source, (cache or default_cache()).expanduser(), Form(size, channels))
    if row and name not in _SHIPPED:
        _check_row(name, row, content, channels)
    return _dataset(source.name, row, content, validation)


def _check_row(name: str, row: Row, content: CachedImages, channels: int | None) -> None:
    """Refuse an added row whose numbers are not those of its images; other ``channels`` may be asked for."""
    stored = row.channels if channels else content.images["train"].shape[1]
    for what, own, actual in (("classes", row.classes, len(content.classes)), ("channels", row.channels, stored)):
        if own != actual:
            plugin = f"{DATASETS.origins[name]}: " if name in DATASETS.origins else ""
            raise ValueError(f"{plugin}DATASETS[{name!r}] has {own} {what}, its images have {actual}: correct the row")


def find_source(name: str, root: Path | None = None) -> Source:
    """Find a data set's images by a key of `DATASETS` or a path, without decoding any; see `load_dataset`."""
    row = DATASETS.get(name)
    return row.find((root or default_root()).expanduser()) if row else _find_path(name)


def _dataset(name: str, row: Row | None, content: CachedImages, validation: float) -> Dataset:
    images, labels = content.images, content.labels
    rows, held = holdout(labels["train"], validation, "validation", name)
    known = row is not None and row.channels == images["train"].shape[1]
    mean, std, constant = (row.mean, row.std, False) if row and known else _statistics(content, rows)
    notes = (
        content.note,
        missing_classes(content.classes, labels["test"], "test"),
        missing_classes(content.classes, labels["train"][held], "validation") if validation else "",
        CONSTANT_NOTE if constant else "",
    )
    return Dataset(
        name=name,
        classes=content.classes,
        mean=mean,
        std=std,
        flip=row is not None and row.flip,
        train=Split(images["train"], labels["train"], rows),
        validation=Split(images["train"], labels["train"], held),
        test=Split(images["test"], labels["test"], np.arange(len(labels["test"]))),
        fingerprint=content.fingerprint,
        note="; ".join(note for note in notes if note),
    )


def _statistics(content: CachedImages, rows: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Return each channel's mean and standard deviation (1 if constant), and whether one is constant."""
    sums, squares = content.moments[rows].sum(0)
    pixels = len(rows) * content.images["train"].shape[2] * content.images["train"].shape[3]
    mean = sums / (pixels * 255)
    variance = np.maximum(squares / (pixels * 255**2) - mean**2, 0)
    constant = np.array([pixels * int(square) == int(total) ** 2 for total, square in zip(sums, squares, strict=True)])
    std = np.where(constant, 1.0, np.sqrt(variance))
    return tuple(mean.tolist()), tuple(std.tolist()), bool(constant.any())


def _find_path(text: str) -> Source:
    check_name("dataset", text)
    path = Path(text).expanduser().resolve()
    if path.is_file() and path.suffix == ".npz":
        return find_npz(path, path.stem)
    if parquet_files(path):
        return find_parquet(path, path.stem if path.is_file() else path.name)
    if path.is_dir():
        return find_folder(path, path.name)
    raise ValueError(f"{text} is no data set: give a folder of Parquet, an ImageFolder, a .parquet or an .npz file")
