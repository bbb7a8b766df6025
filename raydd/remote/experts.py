"""Train the missing experts of a trajectory buffer by Ray actors in parallel."""

import time
from collections.abc import Generator, Iterator
from typing import NamedTuple

import ray

from raydd.buffer.arrow_buffer import refresh_manifest
from raydd.buffer.manifest import read_manifest
from raydd.buffer.upload import BufferUpload
from raydd.data.preprocessing import load_transform
from raydd.remote.expert_pool import PATIENCE_SECONDS, ExpertPool, PoolSize
from raydd.remote.session import Plan, free_nodes, spread
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
    num_workers: int | None,
    *,
    gpus_per_worker: float | None = None,
    grows: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
    upload: BufferUpload | None = None,
) -> Generator[Progress]:
    """Train the missing experts on the connected Ray and yield the progress; then write the manifest again.

    A worker that dies, alone or with its node, is replaced, and its expert is trained again to the same bytes. With
    ``grows``, requested workers that do not fit wait for more nodes. The device ``auto`` takes the cluster's GPUs.
    """
    if missing:
        gpus = ray.cluster_resources().get("GPU", 0)
        job = job._replace(device=_device(job.device, gpus, gpus_per_worker, grows))
        layout = _layout(num_workers, len(missing), job.device == "cuda" and gpus > 0, gpus_per_worker, grows)
        size = PoolSize(layout.workers, layout.cpus, layout.gpus, patience_seconds)
        uri = upload.store.uri if upload else None
        pool = ExpertPool(job, BufferInfo(load_transform(job.folder), read_manifest(job.folder)[0], uri), size)
        yield from _train(job, missing, pool, layout.note, upload)
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


def _device(requested: str, gpus: float, share: float | None, grows: bool) -> str:
    """Return the device of the training; ``auto`` is cuda if the cluster has a GPU."""
    if gpus == 0 and share is not None:
        raise ValueError(f"--gpus-per-worker {share:g}: the cluster has no GPU; leave it out, or add a node with one")
    if gpus == 0 and grows and requested == "cuda":
        raise ValueError("--device cuda: the cluster has no GPU; use --device cpu, or add a node with one")
    return requested if requested != "auto" else "cuda" if gpus else "cpu"


def _layout(requested: int | None, jobs: int, gpu: bool, share: float | None, grows: bool) -> Plan:
    """Return the workers to start; if the cluster grows, also those for which there are no resources yet."""
    try:
        layout = spread(requested, jobs, free_nodes(), gpu, share)
    except ValueError:
        if not grows or (requested is not None and requested < 1):
            raise
        share = (share or 1.0) if gpu else 0.0
        return Plan(min(requested or 1, jobs), 1, share, "no resources for a worker yet: waiting for a node")
    wanted = min(requested or 1, jobs)
    if grows and wanted > layout.workers:
        return layout._replace(workers=wanted, note=f"{layout.note}, more as nodes come")
    return layout
