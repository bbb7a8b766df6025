"""Trainings as data, and the class that runs them: each is one set, one network and one seed."""

import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import nn

from raydd.config.schema import DataConfig
from raydd.data.datasets import Split
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Feed, Workspace, open_workspace, resolve_device
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.saver import Saver
from raydd.evaluation.student import EarlyStop, KeepTraining, evaluate, evaluate_real
from raydd.evaluation.successive_halving import Rungs
from raydd.io.memory import keep_memory
from raydd.models import spaces, zoo
from raydd.models.spaces import Row


@dataclass(frozen=True, eq=False)
class ScoreRow:
    """One row of a table of scores: what networks are trained on, and how they are tested.

    ``sets`` has one set, or one a seed where the selection is random; it is empty for the whole data. None as
    ``classes`` or ``seeds`` means all. Each network takes the best of ``lrs`` on the validation split; an empty tuple
    takes the protocol's. `raydd.data.score_record.Score` explains ``kind``, ``selection``, ``part``, ``of`` and
    ``requested``.
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
    requested: bool = False

    def set_of(self, seed_index: int) -> SyntheticSet | None:
        """Return the synthetic set of a seed, by its position among the seeds; None for the whole data."""
        return self.sets[seed_index % len(self.sets)] if self.sets else None


@dataclass(frozen=True, eq=False)
class Matrix:
    """All trainings of an evaluation.

    ``networks`` are names of the zoo or of ``architectures``. Trainings on synthetic sets are compared at the
    ``rungs``, and the worse ones are stopped.
    """

    rows: tuple[ScoreRow, ...]
    networks: tuple[str, ...]
    seeds: range
    protocol: Protocol
    data: DataConfig
    device: str
    architectures: Mapping[str, Row] = field(default_factory=dict)
    rungs: Rungs | None = None

    def jobs(self) -> list[Job]:
        """Return every training; the long ones, on whole data, come first."""
        order = sorted(range(len(self.rows)), key=lambda index: bool(self.rows[index].sets))
        return [Job(row, network, seed) for row in order for network in self.networks for seed in self.seeds_of(row)]

    def seeds_of(self, row: int) -> Sequence[int]:
        """Return the seeds of a row's networks."""
        own = self.rows[row].seeds
        return self.seeds if own is None else own

    def set_of(self, job: Job) -> SyntheticSet | None:
        """Return the set that a job trains on; None for the whole data."""
        return self.rows[job.row].set_of(job.seed - self.seeds.start)

    def first_set(self) -> SyntheticSet:
        """Return the set whose preprocessing the whole data takes: the first."""
        return next(row.sets[0] for row in self.rows if row.sets)


def same_training(one: Matrix, other: Matrix, job: Job) -> bool:
    """Return whether a job is the same training in two matrices, and so has the same accuracy to the bit."""
    return _settings(one, job) == _settings(other, job) and _same_sets(one, other, job)


def _settings(matrix: Matrix, job: Job) -> tuple[object, ...] | None:
    """Return what decides a training beside its set; None where the matrix does not have it."""
    if job not in matrix.jobs():
        return None
    row, network = matrix.rows[job.row], matrix.architectures.get(job.network)
    own = row.split, row.augment, row.classes, row.lrs
    return own, network, matrix.protocol, matrix.data, matrix.device, matrix.rungs


def _same_sets(one: Matrix, other: Matrix, job: Job) -> bool:
    first, second = one.set_of(job), other.set_of(job)
    if first is None or second is None:
        return first is second and one.first_set().transform.hash == other.first_set().transform.hash
    settings = [
        (synset.transform.hash, synset.formation, synset.dataset, synset.regression) for synset in (first, second)
    ]
    tensors = [(synset.images, synset.labels, synset.lr) for synset in (first, second)]
    return settings[0] == settings[1] and all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


class SetSource(typing.Protocol):
    """Where a matrix's sets come from: itself, or a `raydd.evaluation.set_cache.SetCache`."""

    def set_of(self, job: Job) -> SyntheticSet | None:
        """See `Matrix.set_of`."""

    def first_set(self) -> SyntheticSet:
        """See `Matrix.first_set`."""


class Scorer:
    """Runs jobs of a matrix, one after another, without Ray; ``sets`` replaces the sets in its rows."""

    def __init__(self, matrix: Matrix, sets: SetSource | None = None) -> None:
        keep_memory()
        self._matrix = matrix
        self._sets: SetSource = sets or matrix
        self._works: dict[str, Workspace] = {}
        self._feeds: dict[tuple[str, str, tuple[int, ...] | None], Feed] = {}

    def score(self, job: Job, keep_training: KeepTraining | None = None, saver: Saver | None = None) -> Outcome:
        """Run one training, with ``keep_training`` at every rung; its accuracy does not depend on the worker.

        ``saver`` has the state from which an interrupted training goes on, and saves it.
        """
        saver = saver or Saver()
        start, curve, stopped = time.perf_counter(), saver.curve, False

        def at_rung(epoch: int, value: float) -> bool:
            nonlocal stopped
            curve.append((epoch, value))
            stopped = keep_training is not None and not keep_training(epoch, value)
            return not stopped

        rungs = self._matrix.rungs
        value = self._train(job, EarlyStop(rungs.epochs, at_rung) if rungs else None, saver)
        return Outcome(value, saver.earlier_seconds + time.perf_counter() - start, tuple(curve), stopped)

    def _train(self, job: Job, early_stop: EarlyStop | None, saver: Saver) -> float:
        matrix, row, synset = self._matrix, self._matrix.rows[job.row], self._sets.set_of(job)
        work = self._work(synset or self._sets.first_set())
        augmented = matrix.protocol.augmentation(matrix.data.augment if row.augment else "none", flip=work.dataset.flip)
        build = partial(self._build, job.network, work, len(row.classes or work.dataset.classes))
        test = self._feed(work, row.split, row.classes)
        if synset is None:
            train = self._feed(work, "train", row.classes)
            return saver.part(lambda: evaluate_real(train, build, test, matrix.protocol, augmented, job.seed, saver))
        if row.classes is not None:
            synset = restrict_to_classes(synset, row.classes)

        def score(images: Feed, protocol: Protocol, early_stop: EarlyStop | None = None) -> float:
            return saver.part(lambda: evaluate(synset, build, images, protocol, augmented, job.seed, early_stop, saver))

        protocols = [matrix.protocol.model_copy(update={"lr": lr}) for lr in row.lrs] or [matrix.protocol]
        if len(protocols) > 1:
            validation = self._feed(work, "validation", row.classes)
            protocols.sort(key=lambda protocol: -score(validation, protocol))  # of equally good ones the first
        return score(test, protocols[0], early_stop)

    def _build(self, name: str, work: Workspace, classes: int) -> nn.Module:
        shape = {"channels": work.dataset.channels, "size": work.dataset.size, "classes": classes}
        if architecture := self._matrix.architectures.get(name):
            return spaces.build(architecture, **shape)
        return zoo.build(name, **shape)

    def _work(self, synset: SyntheticSet) -> Workspace:
        key = synset.transform.hash
        if key not in self._works:
            device = resolve_device(self._matrix.device)  # in this process: it also sets deterministic kernels
            self._works[key] = open_workspace(self._matrix.data, None, device, synset.transform)
        return self._works[key]

    def _feed(self, work: Workspace, name: str, classes: tuple[int, ...] | None) -> Feed:
        """Return a split's images of some classes; made once, since on a GPU a feed holds them."""
        key = (work.transform.hash, name, classes)
        if key not in self._feeds:
            if classes is not None:  # there may be many choices of classes, each used a few times
                self._feeds = {known: feed for known, feed in self._feeds.items() if known[2] in (None, classes)}
            split: Split = getattr(work.dataset, name)
            split = split if classes is None else select_classes(split, classes)
            if not len(split):
                raise ValueError(_no_images(work.dataset.name, name, classes))
            self._feeds[key] = work.feed(split)
        return self._feeds[key]


def restrict_to_classes(synset: SyntheticSet, classes: tuple[int, ...]) -> SyntheticSet:
    """Return the images of some classes, labelled by their index among these; soft labels keep these columns.

    An image with soft labels belongs to the class of its largest logit. A set without such images raises ValueError.
    """
    wanted = torch.tensor(classes)
    rows = torch.nonzero(torch.isin(synset.hard_labels, wanted)).flatten()
    if not len(rows):
        raise ValueError(_no_images("a set", "synthetic", classes))
    labels = synset.labels[rows]
    labels = labels[:, wanted] if labels.ndim > 1 else (labels[:, None] == wanted).int().argmax(dim=1)
    names = tuple(synset.classes[label] for label in classes)
    return replace(synset, images=synset.images[rows], labels=labels, classes=names)


def select_classes(split: Split, classes: tuple[int, ...]) -> Split:
    """Return the images of some classes, labelled by their index among these."""
    rows = split.index[np.isin(split.labels[split.index], classes)]
    labels = np.zeros(max(int(split.labels.max()), *classes) + 1, np.asarray(split.labels).dtype)
    labels[list(classes)] = range(len(classes))
    return Split(split.images, labels[split.labels], rows)


def _no_images(owner: str, what: str, classes: tuple[int, ...] | None) -> str:
    """Return the error of a training without images."""
    remedy = "hold some out with data.validation" if what == "validation" else "name other classes"
    return f"{owner} has no {what} images of {'any class' if classes is None else f'classes {classes}'}; {remedy}"
