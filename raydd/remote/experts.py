"""Train the missing experts of a trajectory buffer by Ray actors in parallel."""

import time
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from raydd.buffer.arrow_buffer import refresh_manifest
from raydd.buffer.manifest import read_manifest
from raydd.buffer.upload import BufferUpload
from raydd.config.placement import HERE, Where
from raydd.data.preprocessing import load_transform
from raydd.remote.demand import WORKERS_PER_GPU, demand_for, plan
from raydd.remote.expert_pool import ExpertPool
from raydd.training.expert_worker import BufferInfo, ExpertJob


class Progress(NamedTuple):
    """The progress of a training of experts."""

    done: int  # those of earlier runs included
    total: int
    epochs: int  # of this run
    epochs_total: int  # of this run
    seconds: float
    note: str = ""


def train_missing(
    job: ExpertJob,
    missing: list[int],
    where: Where = HERE,
    *,
    note: Callable[[str], None] = lambda line: None,
    upload: BufferUpload | None = None,
) -> Generator[Progress]:
    """Train the missing experts on the connected Ray and yield the progress; then write the manifest again.

    A worker that dies, alone or with its node, is replaced, and its expert is trained again to the same bytes. Workers
    requested of a cluster that has no room for them wait for more nodes. ``note`` gets lines about a wait for the first
    node.
    """
    if missing:
        share, usual = where.gpus_per_worker, 1 / WORKERS_PER_GPU
        demand = demand_for(job.device, gpus=share, default_gpus=usual, note=note, minutes=where.max_wait)
        layout = plan(demand, where.num_workers, len(missing), grows=where.address is not None)
        uri = upload.store.uri if upload else None
        info = BufferInfo(load_transform(job.folder), read_manifest(job.folder)[0], uri)
        yield from _train(job, missing, ExpertPool(job, info, layout, where), layout.note, upload)
    if upload is None:
        refresh_manifest(job.folder)


def _train(
    job: ExpertJob, missing: list[int], pool: ExpertPool, note: str, upload: BufferUpload | None
) -> Iterator[Progress]:
    start, epochs, total = time.monotonic(), job.experts.epochs, job.experts.num_experts
    earlier, wanted = total - len(missing), len(missing) * epochs
    yield Progress(earlier, total, 0, wanted, 0.0, note)
    for done in pool.train(missing):
        while upload and pool.entries:
            upload.add(pool.entries.pop(0))
        trained = done * epochs + pool.epochs()
        yield Progress(earlier + done, total, trained, wanted, time.monotonic() - start, pool.take_note())
