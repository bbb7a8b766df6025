"""The data set, preprocessed batches, network and device of a job."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from raydd.config.components import Precision
from raydd.config.names import absolute_dataset
from raydd.config.schema import DataConfig, DistillConfig, ExpertsConfig
from raydd.data.datasets import DATASETS, Dataset, Split, load_dataset
from raydd.data.mirroring import flips
from raydd.data.preprocessing import Transform, fit_transform
from raydd.io.console import Screen
from raydd.models.zoo import build, find
from raydd.numerics.augment import Augment, augment
from raydd.numerics.flat import seeded
from raydd.numerics.rng import generator, moved

Job = TypeVar("Job", DistillConfig, ExpertsConfig)


RESIDENT = 0.25
"""The part of a GPU's free memory that a split's images may take; several workers may share it."""


class Feed:
    """Images of a split by row, preprocessed on a device.

    On the CPU the stored bytes stay in the memory-mapped file that all processes share. To a GPU they are copied once
    where they take a small part of its free memory, and else a batch at a time.
    """

    def __init__(self, split: Split, transform: Transform, device: torch.device) -> None:
        self.split = split
        self._transform = transform.to(device)
        self._device = device
        room = RESIDENT * _free_bytes(device)
        resident = bool(room) and len(split) * split.images[:1].nbytes <= room
        self._bytes = split.take(torch.arange(len(split))).to(device) if resident else None
        self.targets = split.targets.to(device)

    def __len__(self) -> int:
        return len(self.split)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return preprocessed images (B, C, H, W), float32, and classes (B,) of CPU rows (B,)."""
        if self._bytes is None:
            stored = moved(self.split.take(rows), self._device)
        else:
            stored = self._bytes[moved(rows, self._device)]
        return self._transform(stored), self.targets[moved(rows, self._device)]

    def shuffled(self, batch_size: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch in random order; the last batch may be smaller."""
        for rows in torch.randperm(len(self), generator=rng).split(batch_size):
            yield self(rows)

    def in_order(self, batch_size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once, in stored order."""
        for rows in torch.arange(len(self)).split(batch_size):
            yield self(rows)


def _free_bytes(device: torch.device) -> float:
    """Return the free memory of a GPU for copies of images; none on a CPU, which reads them where they are."""
    if device.type == "cpu":
        return 0.0
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else float("inf")


@dataclass(frozen=True, eq=False)
class Workspace:
    """A data set, its preprocessing, a network and a device."""

    dataset: Dataset
    transform: Transform
    network: str  # a name of `raydd.NETWORKS`; empty for none
    device: torch.device
    augment: Augment  # the augmentation of training, an image at a time; it mirrors only where the data set allows that

    def build(self) -> nn.Module:
        """Return the network, for these images."""
        data = self.dataset
        return build(self.network, channels=data.channels, size=data.size, classes=len(data.classes))

    def feed(self, split: Split) -> Feed:
        """Return a split's images, preprocessed, on the device."""
        return Feed(split, self.transform, self.device)


def accuracy(network: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the fraction of images that a network classifies correctly."""
    correct = torch.cat([network(x).argmax(dim=1) == y for x, y in batches])
    return float(correct.double().mean())


def with_absolute_path(config: Job) -> Job:
    """Return a configuration with an `absolute_dataset`."""
    data = config.data.model_copy(update={"dataset": absolute_dataset(config.data.dataset)})
    return config if data == config.data else config.model_copy(update={"data": data})


def load_images(data: DataConfig) -> Dataset:
    """Load the data set of a configuration, with its setting for mirror images; see `raydd.load_dataset`."""
    dataset = load_dataset(data.dataset, size=data.size, channels=data.channels, validation=data.validation)
    return replace(dataset, flip=flips(data))


def open_workspace(
    data: DataConfig, network: str | None, device: torch.device, transform: Transform | None = None
) -> Workspace:
    """Load the data set, fit the transform unless it is given, and check that the network can be built for them."""
    if network is not None:
        find(network)  # names first: loading decodes the images into the cache
    dataset = load_images(data)
    if network is not None:
        shape = {"channels": dataset.channels, "size": dataset.size, "classes": len(dataset.classes)}
        seeded(partial(build, network, **shape), generator(0, "check"))
    if transform is None:
        transform = fit_transform(data.preprocessing, dataset)
    return Workspace(dataset, transform, network or "", device, augment(data.augment, flip=dataset.flip))


def print_note(dataset: Dataset, screen: Screen) -> None:
    """Print once what the reader of a user's own data set decided; those of `raydd datasets` are documented."""
    if dataset.note and dataset.name not in DATASETS:
        screen.once(f"{dataset.name}: {dataset.note}")


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` means on this machine; refuse a missing one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no usable CUDA device; use --device cpu")
    if name == "cuda":  # the same bits from the same seed, where the operations have a deterministic form
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        set_precision("float32")
    return torch.device(name)


def set_precision(precision: Precision) -> None:
    """Let this process's GPU round the factors of products, or not: PyTorch rounds those of convolutions by default."""
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
