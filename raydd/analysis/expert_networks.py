"""A buffer's experts as networks at any epoch of their training, and the synthetic sets that they are applied to.

Shapes: `N` images, `K` classes, `B` batch, `C H W` image, `S` sets, `E` experts, `T` epochs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from raydd.analysis.document import Document
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.expert_model import statistics_of
from raydd.config.parsing import Tree, build as build_config
from raydd.config.schema import DataConfig
from raydd.data.datasets import DATASETS
from raydd.data.preprocessing import load_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, open_workspace
from raydd.io.console import Screen
from raydd.io.paths import short_names
from raydd.models.zoo import build
from raydd.numerics.flat import layout_of, running_statistics, seeded, split
from raydd.numerics.rng import generator

BATCH = 512
RUN_FILE = "synset.arrow"  # a run's set, which is named after its folder


@dataclass(frozen=True, eq=False)
class AnalysisContext:
    """What every analysis of experts needs.

    Attributes:
        device: Where networks run.
        screen: Where progress is printed.
        images: ``dataset`` and ``size`` of `DataConfig`, where the buffer's own name is no path to its images.
    """

    device: torch.device
    screen: Screen
    images: Tree = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DecodedSet:
    """A synthetic set as networks see it: decoded on the device, with its name in a figure and its stored ipc."""

    name: str
    path: Path
    ipc: float
    synset: SyntheticSet

    def batches(self, targets: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images (B, C, H, W) and their classes (B,), or other targets, in order."""
        targets = self.synset.hard_labels if targets is None else targets
        yield from zip(self.synset.images.split(BATCH), targets.split(BATCH), strict=True)

    def describe(self) -> Document:
        """Return the set's part of a document; ``images`` counts decoded ones."""
        return {"name": self.name, "file": str(self.path), "ipc": self.ipc, "images": len(self.synset.images)}


def full_buffer(folder: Path) -> ArrowBuffer:
    """Open a buffer with a snapshot of every epoch; refuse a convexified one."""
    buffer = ArrowBuffer(folder)
    if buffer.kept is not None:
        epochs = ", ".join(map(str, buffer.kept))
        raise ValueError(f"{folder} keeps epochs {epochs} alone; give a buffer with a snapshot an epoch")
    return buffer


def open_images(buffer: ArrowBuffer, images: Tree, device: torch.device) -> Workspace:
    """Return the images and the network that a buffer's experts were trained with; see `AnalysisContext`."""
    spec = buffer.spec
    own = {"dataset": spec.dataset, "preprocessing": spec.preprocessing["kind"]}
    recipe: Tree = {key: spec.recipe[key] for key in ("augment", "flip", "validation") if key in spec.recipe}
    data = build_config(DataConfig, own, recipe, images)
    if data.dataset == spec.dataset and spec.dataset not in DATASETS:
        raise ValueError(f"{buffer.folder} is of {spec.dataset}, a path when it was made; name it with --dataset PATH")
    work = open_workspace(data, spec.network, device, load_transform(buffer.folder))
    if work.dataset.fingerprint != spec.fingerprint:
        raise ValueError(
            f"{data.dataset} has fingerprint {work.dataset.fingerprint!r}, the images of {buffer.folder} had "
            f"{spec.fingerprint!r}; name its own --dataset, and --size where they were resized"
        )
    return work


def open_sets(paths: Sequence[Path], buffer: ArrowBuffer, device: torch.device) -> list[DecodedSet]:
    """Load synthetic sets, decoded, on a device."""
    synsets = [SyntheticSet.load(path) for path in paths]
    for path, synset in zip(paths, synsets, strict=True):
        _check_compatible(path, synset, buffer)
    names = short_names([path.absolute().parent if path.name == RUN_FILE else path for path in paths])
    return [
        DecodedSet(name, path, synset.ipc, synset.to(device).decoded())
        for name, path, synset in zip(names, paths, synsets, strict=True)
    ]


def _check_compatible(path: Path, synset: SyntheticSet, buffer: ArrowBuffer) -> None:
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
    for what, (own, wanted) in pairs.items():
        if own != wanted:
            raise ValueError(
                f"{path} has {what} {own!r}, the experts of {buffer.folder} have {wanted!r}; "
                "give a --buffer of the same images and preprocessing"
            )


def header(analysis: str, buffer: ArrowBuffer) -> Document:
    """Return the keys of a document that describe the experts."""
    return {
        "analysis": analysis,
        "buffer": short_names([buffer.folder])[0],
        "folder": str(buffer.folder),
        "dataset": buffer.spec.dataset,
        "network": buffer.spec.network,
        "experts": len(buffer.experts),
    }


def check_epochs(buffer: ArrowBuffer, epochs: Sequence[int]) -> list[int]:
    """Return epochs in ascending order, by default all, and refuse one without a snapshot."""
    for epoch in epochs:
        if epoch not in range(buffer.epochs + 1):
            raise ValueError(f"--epochs {epoch}: {buffer.folder} has snapshots 0 to {buffer.epochs}")
    return sorted(set(epochs)) or list(range(buffer.epochs + 1))


def check_expert(buffer: ArrowBuffer, expert: int) -> int:
    """Return an expert's number, and refuse one that the buffer does not have."""
    if expert not in buffer.experts:
        raise ValueError(f"--expert {expert}: {buffer.folder} holds {', '.join(map(str, buffer.experts))}")
    return expert


def expert_network(buffer: ArrowBuffer, device: torch.device) -> nn.Module:
    """Return the experts' network in evaluation mode, on a device; `load_snapshot` gives it parameters."""
    spec = buffer.spec
    make = partial(build, spec.network, channels=spec.channels, size=spec.size, classes=spec.classes)
    return seeded(make, generator(0, "stages")).to(device).eval()


def load_snapshot(network: nn.Module, buffer: ArrowBuffer, expert: int, epoch: int) -> None:
    """Load an expert's parameters and running statistics after an epoch into its network."""
    layout = layout_of(running_statistics(network))
    state = split(buffer.snapshot(expert, epoch), buffer.layout)
    state |= split(statistics_of(buffer, layout, expert, epoch), layout)
    network.load_state_dict(state, strict=False)


def measure_epochs(
    title: str,
    buffer: ArrowBuffer,
    epochs: Sequence[int],
    context: AnalysisContext,
    measure: Callable[[nn.Module], Sequence[float]],
) -> Tensor:
    """Measure each expert after each epoch, without gradients; returns (S, E, T), float64.

    ``measure`` returns a number a set for a network.
    """
    network, rows = expert_network(buffer, context.device), []
    with context.screen.progress(title, len(buffer.experts) * len(epochs)) as update, torch.no_grad():
        for expert, epoch in product(buffer.experts, epochs):
            load_snapshot(network, buffer, expert, epoch)
            rows.append(list(measure(network)))
            update(len(rows), "stages measured")
    return torch.tensor(rows, dtype=torch.float64).T.reshape(-1, len(buffer.experts), len(epochs))
