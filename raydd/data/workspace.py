"""The data set, preprocessing, network and device of a job."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from raydd.config.names import absolute_dataset
from raydd.config.schema import DataConfig, DistillConfig, ExpertsConfig
from raydd.data.batches import Feed
from raydd.data.datasets import DATASETS, Dataset, Split, load_dataset
from raydd.data.mirroring import flips
from raydd.data.preprocessing import Transform, fit_transform
from raydd.io.console import Screen
from raydd.models.zoo import build, find
from raydd.numerics.augment import Augment, augment
from raydd.numerics.flat import seeded
from raydd.numerics.rng import generator

Job = TypeVar("Job", DistillConfig, ExpertsConfig)


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
    return torch.device(name)
