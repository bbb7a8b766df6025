"""Which trainings an evaluation consists of, and what they come to.

Shapes: none; accuracies are fractions.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from raydd.config import DataConfig, DistillConfig, EvaluateConfig, ExpertConfig
from raydd.data.buffer import ArrowBuffer, verify
from raydd.data.coreset import CORESETS, DRAWN, MEASURED
from raydd.data.initial import ASKS_EXPERTS
from raydd.data.real import Experts
from raydd.data.synset import SyntheticSet
from raydd.memory import keep_memory
from raydd.models.zoo import find
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.settings import build
from raydd.training.protocol import PROTOCOLS
from raydd.training.student import evaluate, evaluate_real
from raydd.workspace import Workspace, open_workspace


@dataclass(frozen=True, eq=False)
class Entry:
    """One row of a table of scores.

    Attributes:
        name: What the row is called.
        kind: distilled, a name of `CORESETS`, or whole.
        sets: The synthetic set; or one a seed, where the choice itself is random; empty for the whole data.
        selection: How the set was chosen: ``honest`` (never on test), or ``paper``.
    """

    name: str
    kind: str
    sets: tuple[SyntheticSet, ...]
    selection: str = "honest"


class Job(NamedTuple):
    """One training: which entry, on which network, with which seed."""

    entry: int
    network: str
    seed: int


@dataclass(frozen=True, eq=False)
class Matrix:
    """All trainings of an evaluation.

    Attributes:
        entries: The rows.
        networks: Names of networks.
        seeds: A fresh network of every cell has each.
        protocol: A name of `PROTOCOLS`.
        data: Which real images.
        device: Where each worker trains.
        real_epochs: Epochs on the whole data; None takes the protocol's.
        epochs: Epochs on a synthetic set; None takes the protocol's.
    """

    entries: tuple[Entry, ...]
    networks: tuple[str, ...]
    seeds: range
    protocol: str
    data: DataConfig
    device: str
    real_epochs: int | None = None
    epochs: int | None = None

    def jobs(self) -> list[Job]:
        """Every training; the long ones, on whole data, first."""
        order = sorted(range(len(self.entries)), key=lambda index: bool(self.entries[index].sets))
        return [Job(e, network, seed) for e in order for network in self.networks for seed in self.seeds]


class Scorer:
    """Does jobs of a matrix, one after another; knows nothing of Ray."""

    def __init__(self, matrix: Matrix) -> None:
        keep_memory()
        self._matrix = matrix
        self._works: dict[tuple[str, str], Workspace] = {}

    def score(self, job: Job) -> float:
        """The test accuracy of one training, in [0, 1]; the same whoever does it."""
        matrix, entry = self._matrix, self._matrix.entries[job.entry]
        protocol = PROTOCOLS[matrix.protocol]
        if matrix.epochs is not None:
            protocol = replace(protocol, epochs=matrix.epochs, plain_epochs=matrix.epochs)
        if matrix.real_epochs is not None:
            protocol = replace(protocol, real_epochs=matrix.real_epochs)
        if not entry.sets:
            work = self._work(matrix.entries[0].sets[0], job.network)
            train, test = work.feed(work.dataset.train), work.feed(work.dataset.test)
            return evaluate_real(train, work.build, test, protocol, work.augment, job.seed)
        synset = entry.sets[(job.seed - matrix.seeds.start) % len(entry.sets)]
        work = self._work(synset, job.network)
        return evaluate(synset, work.build, work.feed(work.dataset.test), protocol, work.augment, job.seed)

    def _work(self, synset: SyntheticSet, network: str) -> Workspace:
        key = (synset.transform.hash, network)
        if key not in self._works:
            device = torch.device(self._matrix.device)
            self._works[key] = open_workspace(self._matrix.data, network, device, synset.transform)
        return self._works[key]


def baselines(synset: SyntheticSet, work: Workspace, seeds: range, experts: Experts | None = None) -> list[Entry]:
    """Selections of real images, as many as the set stores: a fresh one a seed, where they are drawn.

    Herding and k-center measure distances of the experts' features, or of pixels where there are none, and
    forgetting is left out then. K-means is always of pixels.
    """
    ipc = round(synset.ipc)
    entries = []
    for kind, select in CORESETS.items():
        if kind in ASKS_EXPERTS and experts is None:
            continue
        sets, asked = [], None if kind in DRAWN else experts
        for seed in seeds if kind in DRAWN else seeds[:1]:
            images, labels = select(work.dataset, synset.transform, ipc, generator(seed, "coreset", kind), asked)
            chosen = SyntheticSet(images, labels, torch.tensor(0.01), synset.transform, synset.dataset, synset.classes)
            sets.append(chosen)
        space = f" ({'pixels' if experts is None else 'features'})" if kind in MEASURED else ""
        entries.append(Entry(f"{kind}{space}, {ipc} a class", kind, tuple(sets)))
    return entries


def open_experts(folder: Path, data: DataConfig, synsets: Sequence[SyntheticSet], device: str) -> Experts:
    """A buffer's experts, to choose real images by.

    Args:
        folder: The buffer's.
        data: The real images.
        synsets: The sets that the images shall stand beside.
        device: Where the experts compute.

    Raises:
        ValueError: No buffer, or one that is damaged, convexified, of other images or of other preprocessing.
    """
    buffer = ArrowBuffer(folder)
    if buffer.kept is not None:
        raise ValueError(f"{folder} is convexified (MCT), and forgetting needs all snapshots; give a full --buffer")
    work = open_workspace(data, buffer.spec.network, torch.device(device), synsets[0].transform)
    buffer.expect(fingerprint=work.dataset.fingerprint)
    for synset in synsets:
        buffer.expect(preprocessing_hash=synset.transform.hash)
    for problem in verify(folder):
        raise ValueError(f"{folder / problem.file} is damaged: {problem.what}")
    return Experts(FlatModel(work.build), buffer, work.device)


def summarise(matrix: Matrix, results: Sequence[tuple[Job, float]]) -> list[dict[str, Any]]:
    """One record a row and network: mean and standard deviation (n - 1) over the seeds, as fractions."""
    records = []
    for index, entry in enumerate(matrix.entries):
        for network in matrix.networks:
            found = sorted((job.seed, value) for job, value in results if job[:2] == (index, network))
            values = [value for _, value in found]
            records.append(
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    "dataset": Path(matrix.data.dataset).name,
                    "network": network,
                    "protocol": matrix.protocol
                    if matrix.epochs is None
                    else f"{matrix.protocol}, {matrix.epochs} epochs",
                    "selection": entry.selection,
                    "ipc": entry.sets[0].ipc if entry.sets else None,
                    "networks": len(values),
                    "mean": statistics.fmean(values),
                    "std": statistics.stdev(values) if len(values) > 1 else 0.0,
                    "values": values,
                }
            )
    return records


def check_scoring(config: EvaluateConfig) -> None:
    """Refuse an unknown protocol or network, before anything is made that they shall score.

    Raises:
        ValueError: Naming it and those that are known.
    """
    if config.protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {config.protocol!r}; use one of {', '.join(PROTOCOLS)}")
    for network in config.networks:
        find(network)


def plan(
    synsets: Sequence[SyntheticSet],
    names: Sequence[str] | None,
    config: EvaluateConfig,
    device: str,
    buffer: Path | None = None,
) -> tuple[Matrix, Workspace]:
    """The trainings that score synthetic sets beside selections of real images and the whole data set.

    Args:
        synsets: The sets.
        names: What their rows are called; None takes method and ipc.
        config: Real images, networks, seeds, protocol.
        device: Where each worker trains.
        buffer: Experts that choose real images; None chooses by pixels.

    Raises:
        ValueError: Unknown data set, network or protocol, or sets or experts that do not fit the images.
    """
    check_scoring(config)
    first = synsets[0]
    data = build(DistillConfig, first.recipe).data if first.recipe else DataConfig(dataset=first.dataset)
    if config.dataset is not None:
        data = data.model_copy(update={"dataset": config.dataset})
    chosen = config.networks or (str(first.provenance.get("network", ExpertConfig().network)),)
    for network in chosen:
        work = open_workspace(data, network, torch.device("cpu"), first.transform)
    for synset in synsets:
        _check_fit(synset, work, named=config.dataset is not None)
    experts = None if buffer is None else open_experts(buffer, data, synsets, device)
    titles = names or [f"{synset.recipe.get('method', 'set')}, {synset.ipc:g} a class" for synset in synsets]
    entries = [Entry(title, _kind(synset), (synset,)) for title, synset in zip(titles, synsets, strict=True)]
    seeds = range(config.seed, config.seed + config.seeds)
    for synset in {round(synset.ipc): synset for synset in reversed(synsets)}.values():
        entries += baselines(synset, work, seeds, experts)
    epochs = PROTOCOLS[config.protocol].real_epochs if config.real_epochs is None else config.real_epochs
    if epochs:
        entries.append(Entry(f"whole data, {epochs} epochs", "whole", ()))
    return Matrix(tuple(entries), chosen, seeds, config.protocol, data, device, epochs, config.epochs), work


def _kind(synset: SyntheticSet) -> str:
    """The coreset's name where images were selected and nothing was learned; else distilled."""
    return str(synset.recipe["method"]) if synset.recipe.get("match") == "nothing" else "distilled"


def _check_fit(synset: SyntheticSet, work: Workspace, named: bool) -> None:
    """Refuse a set that is not of the real images it would be tested on."""
    dataset, source = work.dataset, synset.provenance.get("fingerprint")
    shape = (dataset.channels, dataset.size, dataset.size)
    if tuple(synset.images.shape[1:]) != shape or len(synset.classes) != len(dataset.classes):
        found = f"{tuple(synset.images.shape[1:])} and {len(synset.classes)} classes"
        wanted = f"{shape} and {len(dataset.classes)}"
        raise ValueError(f"a set has images {found}, {dataset.name} has {wanted}; name its own --dataset")
    if not named and source not in (None, dataset.fingerprint):
        raise ValueError(
            f"a set was distilled from {synset.dataset} with fingerprint {source!r}, {dataset.name} has "
            f"{dataset.fingerprint!r}; evaluate sets of one data set at a time, or name --dataset on purpose"
        )
