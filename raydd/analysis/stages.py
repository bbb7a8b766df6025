"""A buffer's experts as networks, a stage of their training at a time, and the synthetic sets put before them.

Shapes: `N` images, `K` classes, `B` batch, `C H W` image, `S` sets, `E` experts, `T` stages.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from raydd.analysis.document import Document, names_of
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.expert_model import statistics_of
from raydd.config.parsing import Tree, build as settle
from raydd.config.schema import DataConfig
from raydd.data.datasets import DATASETS
from raydd.data.preprocessing import load_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, open_workspace
from raydd.io.console import Screen
from raydd.models.zoo import build
from raydd.numerics.flat import layout_of, running_statistics, seeded, split
from raydd.numerics.rng import generator

AT_ONCE = 512  # images
FILE = "synset.arrow"  # a run's, which is called after its folder


@dataclass(frozen=True, eq=False)
class Place:
    """Where networks run, progress is told and real images are found.

    Attributes:
        device: Where networks run.
        screen: Where progress is told.
        images: ``dataset`` and ``size`` of `DataConfig`, where a buffer's name does not lead to its images.
    """

    device: torch.device
    screen: Screen
    images: Tree = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Shown:
    """A synthetic set as networks see it.

    Attributes:
        name: What it is called.
        path: Its file.
        ipc: Stored images a class.
        synset: Decoded, (N, C, H, W), on the device.
    """

    name: str
    path: Path
    ipc: float
    synset: SyntheticSet

    def batches(self, targets: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The images (B, C, H, W), and their classes (B,) or what else is given for each, in order."""
        found = self.synset.hard_labels if targets is None else targets
        yield from zip(self.synset.images.split(AT_ONCE), found.split(AT_ONCE), strict=True)

    def describe(self) -> Document:
        """What a document says of it: ``images`` are those that networks see."""
        return {"name": self.name, "file": str(self.path), "ipc": self.ipc, "images": len(self.synset.images)}


def full_buffer(folder: Path) -> ArrowBuffer:
    """The buffer of a folder.

    Raises:
        ValueError: It is none, or convexified.
    """
    buffer = ArrowBuffer(folder)
    if buffer.kept is not None:
        kept = ", ".join(map(str, buffer.kept))
        raise ValueError(f"{folder} keeps epochs {kept} alone; give a buffer with a snapshot an epoch")
    return buffer


def open_work(buffer: ArrowBuffer, images: Tree, device: torch.device) -> Workspace:
    """The images and the network that a buffer's experts were trained with.

    Args:
        buffer: The experts.
        images: ``dataset`` and ``size`` of `DataConfig`, where the buffer's name does not lead to its images.
        device: Where tensors shall live.

    Raises:
        ValueError: Other images than the buffer's own, or a path that is not named.
    """
    spec = buffer.spec
    own = {"dataset": spec.dataset, "preprocessing": spec.preprocessing["kind"]}
    recipe: Tree = {key: spec.recipe[key] for key in ("augment", "flip", "validation") if key in spec.recipe}
    data = settle(DataConfig, own, recipe, images)
    if data.dataset == spec.dataset and spec.dataset not in DATASETS:
        raise ValueError(f"{buffer.folder} is of {spec.dataset}, a path when it was made; name it with --dataset PATH")
    work = open_workspace(data, spec.network, device, load_transform(buffer.folder))
    if work.dataset.fingerprint != spec.fingerprint:
        raise ValueError(
            f"{data.dataset} has fingerprint {work.dataset.fingerprint!r}, the images of {buffer.folder} had "
            f"{spec.fingerprint!r}; name its own --dataset, and --size where they were resized"
        )
    return work


def open_sets(paths: Sequence[Path], buffer: ArrowBuffer, device: torch.device) -> list[Shown]:
    """Synthetic sets, decoded, on a device.

    Raises:
        ValueError: A file is no set, or of other images or another preprocessing than the experts.
    """
    loaded = [SyntheticSet.load(path) for path in paths]
    for path, synset in zip(paths, loaded, strict=True):
        _check_fit(path, synset, buffer)
    names = names_of([path.absolute().parent if path.name == FILE else path for path in paths])
    return [
        Shown(name, path, synset.ipc, synset.to(device).decoded())
        for name, path, synset in zip(names, paths, loaded, strict=True)
    ]


def _check_fit(path: Path, synset: SyntheticSet, buffer: ArrowBuffer) -> None:
    spec, transform = buffer.spec, synset.transform
    pairs = {
        "images": (tuple(synset.images.shape[1:]), (spec.channels, spec.size, spec.size)),
        "classes": (len(synset.classes), spec.classes),
        "fingerprint": (synset.provenance.get("fingerprint") or spec.fingerprint, spec.fingerprint),
        "preprocessing": (
            f"{transform.kind} {transform.hash}",
            f"{spec.preprocessing['kind']} {spec.preprocessing_hash}",
        ),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise ValueError(
                f"{path} has {what} {found!r}, the experts of {buffer.folder} have {wanted!r}; "
                "give a --buffer of the same images and preprocessing"
            )


def head(analysis: str, buffer: ArrowBuffer) -> Document:
    """What a document says of the experts."""
    return {
        "analysis": analysis,
        "buffer": names_of([buffer.folder])[0],
        "folder": str(buffer.folder),
        "dataset": buffer.spec.dataset,
        "network": buffer.spec.network,
        "experts": len(buffer.experts),
    }


def known_epochs(buffer: ArrowBuffer, epochs: Sequence[int]) -> list[int]:
    """The stages asked for, ascending; none stands for every snapshot.

    Raises:
        ValueError: There is no snapshot of one of them.
    """
    for epoch in epochs:
        if epoch not in range(buffer.epochs + 1):
            raise ValueError(f"--epochs {epoch}: {buffer.folder} has snapshots 0 to {buffer.epochs}")
    return sorted(set(epochs)) or list(range(buffer.epochs + 1))


def known_expert(buffer: ArrowBuffer, expert: int) -> int:
    """The number of an expert that is there.

    Raises:
        ValueError: It is not.
    """
    if expert not in buffer.experts:
        raise ValueError(f"--expert {expert}: {buffer.folder} holds {', '.join(map(str, buffer.experts))}")
    return expert


def network_of(buffer: ArrowBuffer, device: torch.device) -> nn.Module:
    """The experts' network on a device, to be read: BatchNorm uses its running statistics."""
    spec = buffer.spec
    make = partial(build, spec.network, channels=spec.channels, size=spec.size, classes=spec.classes)
    return seeded(make, generator(0, "stages")).to(device).eval()


def put_at(network: nn.Module, buffer: ArrowBuffer, expert: int, epoch: int) -> None:
    """Load an expert's parameters and running statistics after an epoch into its network."""
    layout = layout_of(running_statistics(network))
    state = split(buffer.snapshot(expert, epoch), buffer.layout)
    state |= split(statistics_of(buffer, layout, expert, epoch), layout)
    network.load_state_dict(state, strict=False)


def at_every_stage(
    title: str, buffer: ArrowBuffer, epochs: Sequence[int], place: Place, ask: Callable[[nn.Module], Sequence[float]]
) -> Tensor:
    """What is measured with each expert at each stage: (S, E, T), float64.

    Args:
        title: What the progress is called.
        buffer: The experts.
        epochs: The T stages.
        place: Where networks run and progress is told.
        ask: A number a set, of a network that was put at a stage; gradients are off.
    """
    network, found = network_of(buffer, place.device), []
    with place.screen.progress(title, len(buffer.experts) * len(epochs)) as update, torch.no_grad():
        for expert, epoch in product(buffer.experts, epochs):
            put_at(network, buffer, expert, epoch)
            found.append(list(ask(network)))
            update(len(found), "stages measured")
    return torch.tensor(found, dtype=torch.float64).T.reshape(-1, len(buffer.experts), len(epochs))
