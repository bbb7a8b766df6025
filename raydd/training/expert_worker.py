"""Experts of one buffer: its folder, the missing experts, and the training of one. Without Ray."""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from raydd.buffer.arrow_buffer import complete_experts, create_buffer
from raydd.buffer.convexified import knots
from raydd.buffer.expert_file import expert_path
from raydd.buffer.expert_writer import PIECE_BYTES, ExpertWriter, Piece, Row, Rows, pieces
from raydd.buffer.manifest import read_manifest
from raydd.buffer.mirror import MANIFEST, mirror
from raydd.buffer.spec import BufferSpec, spec_of
from raydd.buffer.upload import BufferUpload, Entry, entry_of, put
from raydd.config.schema import DataConfig, ExpertConfig, ExpertsConfig
from raydd.data.mirroring import check_mirroring, data_recipe
from raydd.data.preprocessing import Transform, load_transform, save_transform
from raydd.data.workspace import Workspace, open_workspace, resolve_device, set_precision
from raydd.io.files import AnyPath, sweep, writer
from raydd.io.filesystem import Store, open_store
from raydd.io.memory import keep_memory
from raydd.io.paths import default_cache
from raydd.io.uri import is_uri
from raydd.numerics.flat import seeded
from raydd.numerics.rng import generator
from raydd.training.expert import train_expert

STREAM = "RAYDD_EXPERTS_STREAM"
"""Set in a worker's environment, it makes the worker send experts to the driver even if it has the folder."""
CHUNK_SECONDS = 0.5
KEEP_FREE = 10  # an uploaded expert stays on the disk if this many more would fit


class ExpertJob(NamedTuple):
    """What to train: the experts of one buffer."""

    data: DataConfig
    experts: ExpertConfig
    seed: int
    folder: Path
    device: str


class BufferInfo(NamedTuple):
    """The contents of a buffer, for workers that may not have its folder."""

    transform: Transform
    spec: BufferSpec
    uri: str | None = None  # where workers upload experts from their node's mirror; None without remote storage


class ExpertChunk(NamedTuple):
    """A chunk of an expert's training."""

    epoch: int
    pieces: list[Piece]  # input of the driver's `ExpertWriter`; empty where the worker writes the file
    ended: bool
    entry: Entry | None = None  # of the manifest, once the expert is uploaded


class ExpertTrainer:
    """Trains one expert after another, in any process; refuses data that are not those of the buffer."""

    def __init__(self, job: ExpertJob, info: BufferInfo | None = None) -> None:
        torch.set_num_threads(1)
        keep_memory()
        self._job, self._index, self._epoch = job, -1, 0
        self._coming: Iterator[list[Piece]] = iter(())
        self._folder: Path = job.folder
        self._entry: Entry | None = None
        self._store: Store | None = None
        if info and info.uri:
            self._folder, self._store = mirror(info.uri), open_store(info.uri)
            self._folder.mkdir(parents=True, exist_ok=True)
            sweep(self._folder)
        transform = info.transform if info else load_transform(job.folder)
        self._work = open_workspace(job.data, job.experts.network, resolve_device(job.device), transform)
        set_precision(job.experts.precision)
        self._train = self._work.feed(self._work.dataset.train)
        self._validation = self._work.feed(self._work.dataset.validation)
        self._spec = buffer_spec(job, self._work)
        if info and (difference := self._spec.difference(info.spec)):
            raise ValueError(
                f"{socket.gethostname()} would train other experts: {difference}; give every node the same data"
            )

    def train(self, index: int) -> int:
        """Train expert ``index``, write its file, and return the index; every process writes the same bytes.

        An expert that another run has finished meanwhile is not changed.
        """
        for _ in self._written(index):
            pass
        return index

    def check_folder(self, path: Path, content: str) -> tuple[str, bool]:
        """Return the name in this worker's temporary files, and whether it can write to the buffer's folder.

        The folder has a file of this path and content; another node may have another folder of the same name.
        """
        if os.environ.get(STREAM):
            return writer(), False
        try:
            return writer(), path.read_text() == content and os.access(path.parent, os.W_OK)
        except OSError:
            return writer(), False

    def train_chunk(self, index: int, stream: bool) -> ExpertChunk:
        """Start or continue expert ``index``, for `CHUNK_SECONDS` or until a stream has `PIECE_BYTES` to send."""
        if index != self._index:
            self._index, self._epoch, self._entry = index, 0, None
            streamed = ([piece] for row in self._rows(index) for piece in pieces(row))
            self._coming = streamed if stream else self._written(index)
        end, chunk, size = time.monotonic() + CHUNK_SECONDS, list[Piece](), 0
        for pieces_ in self._coming:
            chunk += pieces_
            arrays = (piece.theta if isinstance(piece, Row) else piece for piece in pieces_)
            size += sum(values.nbytes for values in arrays if values is not None)
            if size >= PIECE_BYTES or time.monotonic() > end:
                return ExpertChunk(self._epoch, chunk, False)
        return ExpertChunk(self._epoch, chunk, True, self._entry)

    def _rows(self, index: int) -> Iterator[Row]:
        torch.set_num_threads(1)
        job, rows = self._job, Rows(self._spec, index)
        seed = job.seed, index
        for snapshot in train_expert(
            job.experts, self._work.build, self._train, self._validation, self._work.augment, seed
        ):
            self._epoch = snapshot.epoch
            yield rows.row(*snapshot)

    def _written(self, index: int) -> Iterator[list[Piece]]:
        path = expert_path(self._folder, index)
        if self._store and path.is_file():  # left by a run that was stopped before the upload, or by a deleted buffer
            try:
                entry_of(self._folder, index, self._spec)
            except ValueError:
                path.replace(f"{path}.bad")
        if not path.is_file():
            with ExpertWriter(self._folder, self._spec, index) as expert_file:
                for row in self._rows(index):
                    expert_file.add(row)
                    yield []
                expert_file.finish()
        if self._store:
            self._entry, size = entry_of(self._folder, index, self._spec), path.stat().st_size
            put(self._store, path)
            if shutil.disk_usage(path.parent).free < KEEP_FREE * size:  # otherwise it stays for readers on this node
                path.unlink()


def default_buffer(config: ExpertsConfig) -> Path:
    """Return the cache's folder for the buffer of a configuration: one for any number of experts."""
    experts = config.experts
    tree = config.model_dump(mode="json") | {"experts": {"network": experts.network, **experts.recipe()}}
    del tree["data"]["flip"]  # not part of the name in earlier versions
    if config.data.channels is None:
        del tree["data"]["channels"]
    tree["data"] |= data_recipe(config.data)
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{Path(config.data.dataset).name}-{config.experts.network.replace(':', '-')}-{digest}"
    return default_cache() / "buffers" / name


def buffer_destination(path: AnyPath) -> tuple[Path | str, BufferUpload | None]:
    """Return where experts are written: a folder, or a URI and its upload. A ``file://`` URI is a folder."""
    if not is_uri(path):
        return Path(path).absolute(), None
    uri = os.fspath(path)
    folder = open_store(uri).local
    return (folder, None) if folder is not None else (uri, BufferUpload(uri))


def buffer_spec(job: ExpertJob, work: Workspace) -> BufferSpec:
    """Return the buffer's spec, which does not depend on the number of experts."""
    network, waypoints = seeded(work.build, generator(0, "layout")), job.experts.kept
    kept = None if waypoints is None else knots(waypoints, job.experts.epochs, "experts.kept")
    recipe = job.experts.recipe() | data_recipe(job.data)
    return spec_of(work, network, recipe, job.seed, kept=kept, storage=job.experts.storage)


def prepare(job: ExpertJob, upload: BufferUpload | None = None) -> tuple[ExpertJob, list[int]]:
    """Create or check the buffer's folder and its remote storage, and return the job and the missing experts."""
    try:
        return job, _missing(job, upload)
    except ValueError as error:  # name the buffer's URI, not its mirror
        if upload is None:
            raise
        raise ValueError(str(error).replace(str(job.folder), upload.store.public_uri)) from None


def _missing(job: ExpertJob, upload: BufferUpload | None) -> list[int]:
    """Create or check the buffer's folder, and return the missing experts."""
    before = read_manifest(job.folder)[0] if (job.folder / MANIFEST).exists() else None
    if before:  # refuse another network, recipe or seed before any image is decoded
        recipe = job.experts.recipe() | {"augment": job.data.augment, "validation": job.data.validation}
        if "flip" in before.recipe:  # `check_mirroring` has the better message
            recipe["flip"] = before.recipe["flip"]
        create_buffer(job.folder, replace(before, network=job.experts.network, recipe=recipe, seed=job.seed))
    stored = job.folder / "preprocessing.arrow"
    transform = load_transform(job.folder) if stored.exists() else None
    work = open_workspace(job.data, job.experts.network, torch.device("cpu"), transform)
    spec = buffer_spec(job, work)
    if before and before.fingerprint == spec.fingerprint:
        check_mirroring(upload.store.public_uri if upload else job.folder, before.recipe, job.data)
    create_buffer(job.folder, spec)
    if transform is None:
        save_transform(job.folder, work.transform)
    done = complete_experts(job.folder, spec)
    if upload is not None:
        done = upload.open(spec, done)
    return sorted(set(range(job.experts.num_experts)) - done)
