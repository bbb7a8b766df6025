"""Trainings as data, and what does them: which set, on which network, with which seed.

Shapes: none; accuracies are fractions.
"""

import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from raydd.config.schema import DataConfig
from raydd.data.batches import Feed
from raydd.data.datasets import Split
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, open_workspace, resolve_device
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.student import Watch, evaluate, evaluate_real
from raydd.evaluation.successive_halving import Rungs
from raydd.io.memory import keep_memory
from raydd.models import spaces, zoo
from raydd.models.spaces import Row

GoOn = Callable[[int, float], bool]
"""(epoch, accuracy after it) -> whether the training goes on."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One row of a table of scores: what networks are trained on, and how they are tested.

    Attributes:
        name: What the row is called.
        kind: distilled, a name of `CORESETS`, or whole.
        sets: The synthetic set; or one a seed, where the choice itself is random; empty for the whole data.
        selection: How the set was chosen: ``honest`` (never on test), ``paper`` (on test), or ``unknown``.
        split: Which images accuracy is measured on.
        augment: Whether networks are trained with the data's augmentation.
        classes: Only these classes are learned and tested, in this order; None takes all.
        lrs: Step sizes of which each network takes the one that is best on the validation split; empty takes the
            protocol's. Not for the whole data.
        seeds: Only networks with these are trained; None takes all of the matrix'.
        part: What the row is to a robust score: a name of `raydd.evaluation.robust.TRAININGS`; empty for none.
        of: The row that this one belongs to; empty where it stands by itself.
        asked: Whether the evaluation is of this row, and not only beside it.
    """

    name: str
    kind: str
    sets: tuple[SyntheticSet, ...]
    selection: str = "honest"
    split: Literal["test", "validation"] = "test"
    augment: bool = True
    classes: tuple[int, ...] | None = None
    lrs: tuple[float, ...] = ()
    seeds: tuple[int, ...] | None = None
    part: str = ""
    of: str = ""
    asked: bool = False

    def set_of(self, seed: int) -> SyntheticSet | None:
        """The synthetic set for the seed with this place; None for the whole data."""
        return self.sets[seed % len(self.sets)] if self.sets else None


class Job(NamedTuple):
    """One training: which entry, on which network, with which seed."""

    entry: int
    network: str
    seed: int


class Outcome(NamedTuple):
    """What a training came to.

    Attributes:
        value: Accuracy, in [0, 1].
        seconds: How long it took.
        curve: Epoch and accuracy at every rung.
        stopped: Whether it was ended at the last of these.
        commit: The source that it is of; None where it is not known.
    """

    value: float
    seconds: float
    curve: tuple[tuple[int, float], ...] = ()
    stopped: bool = False
    commit: str | None = None


@dataclass(frozen=True, eq=False)
class Matrix:
    """All trainings of an evaluation.

    Attributes:
        entries: The rows.
        networks: Names of networks: of the zoo, or of ``rows``.
        seeds: A fresh network of every cell has each.
        protocol: How networks are trained.
        data: Which real images.
        device: Where each worker trains.
        rows: Architectures that are no names of the zoo, by name.
        rungs: Where trainings on synthetic sets are compared, and the worse ones stopped; None stops none.
    """

    entries: tuple[Entry, ...]
    networks: tuple[str, ...]
    seeds: range
    protocol: Protocol
    data: DataConfig
    device: str
    rows: Mapping[str, Row] = field(default_factory=dict)
    rungs: Rungs | None = None

    def jobs(self) -> list[Job]:
        """Every training; the long ones, on whole data, first."""
        order = sorted(range(len(self.entries)), key=lambda index: bool(self.entries[index].sets))
        return [Job(e, network, seed) for e in order for network in self.networks for seed in self.seeds_of(e)]

    def seeds_of(self, entry: int) -> Sequence[int]:
        """The seeds of an entry's networks."""
        own = self.entries[entry].seeds
        return self.seeds if own is None else own

    def set_of(self, job: Job) -> SyntheticSet | None:
        """What a job's network is trained on; None for the whole data."""
        return self.entries[job.entry].set_of(job.seed - self.seeds.start)

    def look(self) -> SyntheticSet:
        """The set whose preprocessing the whole data takes: the first."""
        return next(entry.sets[0] for entry in self.entries if entry.sets)


class Sets(typing.Protocol):
    """Where the sets of a matrix are: in itself, or on a `raydd.evaluation.set_cache.Shelf`."""

    def set_of(self, job: Job) -> SyntheticSet | None:
        """As `Matrix.set_of`."""

    def look(self) -> SyntheticSet:
        """As `Matrix.look`."""


class Scorer:
    """Does jobs of a matrix, one after another; knows nothing of Ray.

    Args:
        matrix: Whose jobs.
        sets: Its sets, where they are kept apart; None takes those in its entries.
    """

    def __init__(self, matrix: Matrix, sets: Sets | None = None) -> None:
        keep_memory()
        self._matrix = matrix
        self._sets: Sets = sets or matrix
        self._works: dict[str, Workspace] = {}
        self._feeds: dict[tuple[str, str, tuple[int, ...] | None], Feed] = {}

    def score(self, job: Job, go_on: GoOn | None = None) -> Outcome:
        """One training; the same accuracy whoever does it.

        Args:
            job: Which.
            go_on: Asked at every rung of the matrix.
        """
        start, curve = time.perf_counter(), list[tuple[int, float]]()
        goes_on = True

        def look(epoch: int, value: float) -> bool:
            nonlocal goes_on
            curve.append((epoch, value))
            goes_on = go_on is None or go_on(epoch, value)
            return goes_on

        rungs = self._matrix.rungs
        value = self._train(job, Watch(rungs.epochs, look) if rungs else None)
        return Outcome(value, time.perf_counter() - start, tuple(curve), not goes_on)

    def _train(self, job: Job, watch: Watch | None) -> float:
        matrix, entry, synset = self._matrix, self._matrix.entries[job.entry], self._sets.set_of(job)
        work = self._work(synset or self._sets.look())
        own = matrix.data.augment if entry.augment else "none"
        augmented = matrix.protocol.augmentation(own, flip=work.dataset.flip)
        build = partial(self._build, job.network, work, len(entry.classes or work.dataset.classes))
        test = self._feed(work, entry.split, entry.classes)
        if synset is None:
            train = self._feed(work, "train", entry.classes)
            return evaluate_real(train, build, test, matrix.protocol, augmented, job.seed)
        if entry.classes is not None:
            synset = restricted(synset, entry.classes)

        def score(images: Feed, protocol: Protocol, watch: Watch | None = None) -> float:
            return evaluate(synset, build, images, protocol, augmented, job.seed, watch)

        protocols = [matrix.protocol.model_copy(update={"lr": lr}) for lr in entry.lrs] or [matrix.protocol]
        if len(protocols) > 1:
            held = self._feed(work, "validation", entry.classes)
            protocols.sort(key=lambda protocol: -score(held, protocol))  # of equally good ones the first
        return score(test, protocols[0], watch)

    def _build(self, name: str, work: Workspace, classes: int) -> nn.Module:
        """A fresh network; the zoo's where it is no row of a space."""
        shape = {"channels": work.dataset.channels, "size": work.dataset.size, "classes": classes}
        if row := self._matrix.rows.get(name):
            return spaces.build(row, **shape)
        return zoo.build(name, **shape)

    def _work(self, synset: SyntheticSet) -> Workspace:
        key = synset.transform.hash
        if key not in self._works:
            device = resolve_device(self._matrix.device)  # in this process: it makes what is deterministic so
            self._works[key] = open_workspace(self._matrix.data, None, device, synset.transform)
        return self._works[key]

    def _feed(self, work: Workspace, name: str, classes: tuple[int, ...] | None) -> Feed:
        """A split's images, of some classes; made once, since on a GPU it holds them."""
        key = (work.transform.hash, name, classes)
        if key not in self._feeds:
            if classes is not None:  # there may be many, of which each is asked for a few times
                self._feeds = {kept: feed for kept, feed in self._feeds.items() if kept[2] in (None, classes)}
            split: Split = getattr(work.dataset, name)
            split = split if classes is None else only(split, classes)
            if not len(split):
                raise ValueError(_nothing(work.dataset.name, name, classes))
            self._feeds[key] = work.feed(split)
        return self._feeds[key]


def restricted(synset: SyntheticSet, classes: tuple[int, ...]) -> SyntheticSet:
    """The images of some classes, labelled by their place among these; of soft labels the columns of these.

    An image belongs to its class, or to that of its largest logit.

    Raises:
        ValueError: The set has no image of these.
    """
    places = torch.tensor(classes)
    rows = torch.nonzero(torch.isin(synset.hard_labels, places)).flatten()
    if not len(rows):
        raise ValueError(_nothing("a set", "synthetic", classes))
    labels = synset.labels[rows]
    labels = labels[:, places] if labels.ndim > 1 else (labels[:, None] == places).int().argmax(dim=1)
    names = tuple(synset.classes[label] for label in classes)
    return replace(synset, images=synset.images[rows], labels=labels, classes=names)


def _nothing(whose: str, what: str, classes: tuple[int, ...] | None) -> str:
    """Why a training cannot be done: no images."""
    remedy = "hold some out with data.validation" if what == "validation" else "name other classes"
    return f"{whose} has no {what} images of {'any class' if classes is None else f'classes {classes}'}; {remedy}"


def only(split: Split, classes: tuple[int, ...]) -> Split:
    """The images of some classes, labelled by their place among these."""
    kept = split.index[np.isin(split.labels[split.index], classes)]
    places = np.zeros(max(int(split.labels.max()), *classes) + 1, np.asarray(split.labels).dtype)
    places[list(classes)] = range(len(classes))
    return Split(split.images, places[split.labels], kept)
