"""Experts of one buffer: where it is kept, what is missing, and training it. Nothing here knows of Ray."""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from raydd.buffer.arrow_buffer import complete_experts, create_buffer
from raydd.buffer.convexified import knots
from raydd.buffer.expert_file import Array, expert_path
from raydd.buffer.expert_writer import PIECE_BYTES, ExpertWriter, Piece, Row, Rows, pieces
from raydd.buffer.manifest import read_manifest
from raydd.buffer.mirror import MANIFEST, mirror
from raydd.buffer.spec import BufferSpec, spec_of
from raydd.buffer.upload import BufferUpload, Entry, entry_of, put
from raydd.config.schema import DataConfig, ExpertConfig, ExpertsConfig
from raydd.data.mirroring import check_mirroring, data_recipe
from raydd.data.preprocessing import Transform, load_transform, save_transform
from raydd.data.workspace import Workspace, open_workspace, resolve_device
from raydd.io.files import AnyPath, sweep, writer
from raydd.io.filesystem import Store, is_uri, open_store
from raydd.io.memory import keep_memory
from raydd.io.paths import default_cache
from raydd.numerics.flat import seeded
from raydd.numerics.rng import generator
from raydd.training.expert import train_expert

STREAM = "RAYDD_EXPERTS_STREAM"
"""Set in a worker's environment, it sends its experts to the driver although it may see the buffer's folder."""
PART_SECONDS = 0.5
KEEP_FREE = 10  # experts for which a disk must have room, if one that is in a store is to stay on it


class Job(NamedTuple):
    """All that a worker needs to train experts of one buffer."""

    data: DataConfig
    experts: ExpertConfig
    seed: int
    folder: Path
    device: str


class Given(NamedTuple):
    """What a worker is told of a buffer whose folder it may not see.

    Attributes:
        transform: The buffer's preprocessing.
        spec: What the buffer is of.
        uri: Where finished experts are put, when the buffer is in a store: a worker writes them into its own node's
            mirror first.
    """

    transform: Transform
    spec: BufferSpec
    uri: str | None = None


class Part(NamedTuple):
    """Some more of an expert's training.

    Attributes:
        epoch: Epochs trained so far.
        pieces: For the `ExpertWriter` of whoever writes the expert; none where the worker itself does.
        ended: Whether that was all.
        entry: The manifest's words on the expert, when it ended and was put into a store.
    """

    epoch: int
    pieces: list[Piece]
    ended: bool
    entry: Entry | None = None


class Trainer:
    """Trains one expert after another; knows nothing of Ray.

    Args:
        job: What to train.
        given: The buffer's preprocessing and spec; None reads them from its folder.

    Raises:
        ValueError: The data set, preprocessing or network is not here, or not the buffer's.
    """

    def __init__(self, job: Job, given: Given | None = None) -> None:
        torch.set_num_threads(1)
        keep_memory()
        self._job, self._index, self._epoch = job, -1, 0
        self._coming: Iterator[list[Piece]] = iter(())
        self._folder: Path = job.folder
        self._entry: Entry | None = None
        self._store: Store | None = None
        if given and given.uri:
            self._folder, self._store = mirror(given.uri), open_store(given.uri)
            self._folder.mkdir(parents=True, exist_ok=True)
            sweep(self._folder)
        transform = given.transform if given else load_transform(job.folder)
        self._work = open_workspace(job.data, job.experts.network, resolve_device(job.device), transform)
        self._train = self._work.feed(self._work.dataset.train)
        self._validation = self._work.feed(self._work.dataset.validation)
        self._spec = buffer_spec(job, self._work)
        if given and (what := self._spec.difference(given.spec)):
            raise ValueError(f"{socket.gethostname()} would train other experts: {what}; give every node the same data")

    def train(self, index: int) -> int:
        """Train expert ``index`` and write its file; the same bytes whoever does it. Returns the index.

        One that another run has finished meanwhile is left as it is.
        """
        for _ in self._written(index):
            pass
        return index

    def look(self, path: Path, content: str) -> tuple[str, bool]:
        """Who writes this worker's temporary files, and whether it can write beside a file of the buffer's folder.

        Args:
            path: A file that is on the disk of who asks.
            content: What it holds: another node may have a folder of the same name.
        """
        if os.environ.get(STREAM):
            return writer(), False
        try:
            return writer(), path.read_text() == content and os.access(path.parent, os.W_OK)
        except OSError:
            return writer(), False

    def more(self, index: int, stream: bool) -> Part:
        """Go on training expert ``index``, or begin it, for half a second or until 32 MB are to be sent.

        Args:
            index: The expert's number.
            stream: Send what is to be written; else write it here.
        """
        if index != self._index:
            self._index, self._epoch, self._entry = index, 0, None
            self._coming = self._sent(index) if stream else self._written(index)
        end, found, size = time.monotonic() + PART_SECONDS, list[Piece](), 0
        for pieces_ in self._coming:
            found += pieces_
            size += sum(values.nbytes for piece in pieces_ if (values := _values(piece)) is not None)
            if size >= PIECE_BYTES or time.monotonic() > end:
                return Part(self._epoch, found, False)
        return Part(self._epoch, found, True, self._entry)

    def _rows(self, index: int) -> Iterator[Row]:
        torch.set_num_threads(1)
        job, rows = self._job, Rows(self._spec, index)
        seed = job.seed, index
        for snapshot in train_expert(
            job.experts, self._work.build, self._train, self._validation, self._work.augment, seed
        ):
            self._epoch = snapshot.epoch
            yield rows.row(*snapshot)

    def _sent(self, index: int) -> Iterator[list[Piece]]:
        return ([piece] for row in self._rows(index) for piece in pieces(row))

    def _written(self, index: int) -> Iterator[list[Piece]]:
        path = expert_path(self._folder, index)
        if self._store and path.is_file():  # of a run that was stopped before it was sent, or of a buffer that is gone
            self._set_aside_if_broken(path, index)
        if not path.is_file():
            with ExpertWriter(self._folder, self._spec, index) as spool:
                for row in self._rows(index):
                    spool.add(row)
                    yield []
                spool.finish()
        if self._store:
            self._entry, size = entry_of(self._folder, index, self._spec), path.stat().st_size
            put(self._store, path)
            if shutil.disk_usage(path.parent).free < KEEP_FREE * size:  # else it stays, for who reads it here
                path.unlink()

    def _set_aside_if_broken(self, path: Path, index: int) -> None:
        try:
            entry_of(self._folder, index, self._spec)
        except ValueError:
            path.replace(f"{path}.bad")


def _values(piece: Piece) -> Array | None:
    return piece.theta if isinstance(piece, Row) else piece


def default_buffer(config: ExpertsConfig) -> Path:
    """Where the cache keeps the buffer of a configuration: one folder for any number of experts."""
    experts = config.experts
    tree = config.model_dump(mode="json") | {"experts": {"network": experts.network, **experts.recipe()}}
    del tree["data"]["flip"]  # as before there was a choice
    if config.data.channels is None:
        del tree["data"]["channels"]
    tree["data"] |= data_recipe(config.data)
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{Path(config.data.dataset).name}-{config.experts.network.replace(':', '-')}-{digest}"
    return default_cache() / "buffers" / name


def outlet_of(place: AnyPath) -> tuple[Path | str, BufferUpload | None]:
    """Where experts go: a folder, or an URI and its store. A ``file://`` URI is of such a folder.

    Raises:
        ValueError: No such kind of store.
        OSError: The store cannot be read.
    """
    if not is_uri(place):
        return Path(place).absolute(), None
    uri = os.fspath(place)
    folder = open_store(uri).local
    return (folder, None) if folder is not None else (uri, BufferUpload(uri))


def buffer_spec(job: Job, work: Workspace) -> BufferSpec:
    """What the buffer is of; the number of experts is not part of it.

    Raises:
        ValueError: An epoch of ``experts.kept`` is not between the first and the last.
    """
    network, waypoints = seeded(work.build, generator(0, "layout")), job.experts.kept
    kept = None if waypoints is None else knots(waypoints, job.experts.epochs, "experts.kept")
    recipe = job.experts.recipe() | data_recipe(job.data)
    return spec_of(work, network, recipe, job.seed, kept=kept, storage=job.experts.storage)


def prepare(job: Job, outlet: BufferUpload | None = None) -> tuple[Job, list[int]]:
    """Make or check the buffer's folder, and list the experts that are missing.

    Args:
        job: What is to be trained; its folder is the buffer's, or the mirror of one in a store.
        outlet: The store, which is made or checked too.

    Raises:
        ValueError: The data set or network is unknown, an epoch to keep is not between the first and
            the last, or the folder holds another buffer.
        OSError: The store cannot be read or written.
    """
    _check_same(job, outlet)
    stored = job.folder / "preprocessing.arrow"
    transform = load_transform(job.folder) if stored.exists() else None
    work = open_workspace(job.data, job.experts.network, torch.device("cpu"), transform)
    spec = buffer_spec(job, work)
    before = read_manifest(job.folder)[0] if (job.folder / MANIFEST).exists() else None
    if before and before.fingerprint == spec.fingerprint:
        check_mirroring(outlet.store.public_uri if outlet else job.folder, before.recipe, job.data)
    with _named(job.folder, outlet):
        create_buffer(job.folder, spec)
    if transform is None:
        save_transform(job.folder, work.transform)
    there = complete_experts(job.folder, spec)
    if outlet is not None:
        there = outlet.open(spec, there)
    return job, sorted(set(range(job.experts.num_experts)) - there)


def _check_same(job: Job, outlet: BufferUpload | None) -> None:
    """Refuse a folder with a buffer of another network, recipe or seed, before any image is decoded."""
    if not (job.folder / "manifest.json").exists():
        return
    with _named(job.folder, outlet):
        spec = read_manifest(job.folder)[0]
        recipe = job.experts.recipe() | {"augment": job.data.augment, "validation": job.data.validation}
        recipe |= {"flip": spec.recipe["flip"]} if "flip" in spec.recipe else {}  # of which `check_buffer` says more
        create_buffer(job.folder, replace(spec, network=job.experts.network, recipe=recipe, seed=job.seed))


@contextmanager
def _named(folder: Path, outlet: BufferUpload | None) -> Iterator[None]:
    """Have refusals name a buffer's URI rather than its mirror."""
    try:
        yield
    except ValueError as error:
        if outlet is None:
            raise
        raise ValueError(str(error).replace(str(folder), outlet.store.public_uri)) from None
