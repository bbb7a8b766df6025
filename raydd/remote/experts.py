"""Experts trained in parallel by Ray actors into a trajectory buffer."""

import time
from collections.abc import Generator, Iterator
from typing import NamedTuple

import ray

from raydd.buffer.arrow_buffer import refresh_manifest
from raydd.buffer.manifest import read_manifest
from raydd.buffer.upload import BufferUpload
from raydd.data.preprocessing import load_transform
from raydd.remote.expert_pool import PATIENCE_SECONDS, Crew, Needs
from raydd.remote.session import Plan, free_nodes, spread
from raydd.training.expert_worker import Given, Job, Trainer, buffer_spec, prepare

__all__ = ["Job", "Progress", "Trainer", "buffer_spec", "prepare", "train_missing"]


class Progress(NamedTuple):
    """Where a run of experts stands.

    Attributes:
        done: Experts finished, those found at the start included.
        total: Experts wanted.
        epochs: Epochs trained in this run.
        epochs_total: Epochs this run has to train.
        seconds: Since the start of the run.
        note: Something worth a line, or empty.
    """

    done: int
    total: int
    epochs: int
    epochs_total: int
    seconds: float
    note: str = ""


def train_missing(
    job: Job,
    missing: list[int],
    num_workers: int | None,
    *,
    gpus_per_worker: float | None = None,
    grows: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
    outlet: BufferUpload | None = None,
) -> Generator[Progress]:
    """Train the missing experts on the connected Ray, yielding progress; then rewrite the manifest.

    A worker that dies, alone or with its node, is replaced and its expert trained anew, to the same bytes.

    Args:
        job: What to train; its device may be ``auto``, which takes the cluster's GPUs where it has some.
        missing: The experts' numbers.
        num_workers: Workers asked for; None takes what fits.
        gpus_per_worker: GPUs a worker, such as 0.25; None shares them as the number of workers asks.
        grows: Whether the cluster may get more nodes: workers asked for that do not fit wait for them.
        patience_seconds: How long to wait when there is room for no worker at all.
        outlet: The buffer's store, if it is in one.

    Raises:
        ValueError: The cluster cannot carry what is asked for.
        RuntimeError: An expert failed again and again, its training raised, or there is no node left; finished
            experts stay.
    """
    if missing:
        total = ray.cluster_resources().get("GPU", 0)
        job = job._replace(device=_device(job.device, total, gpus_per_worker, grows))
        gpu = job.device == "cuda" and total > 0
        layout = _layout(num_workers, len(missing), gpu, gpus_per_worker, grows)
        needs = Needs(layout.workers, layout.cpus, layout.gpus, patience_seconds)
        yield from _train(job, missing, needs, layout.note, outlet)
    if outlet is None:
        refresh_manifest(job.folder)


def _train(job: Job, missing: list[int], needs: Needs, note: str, outlet: BufferUpload | None) -> Iterator[Progress]:
    start, epochs = time.monotonic(), job.experts.epochs
    total, wanted = job.experts.num_experts, len(missing) * job.experts.epochs
    found = total - len(missing)
    uri = outlet.store.uri if outlet else None
    crew = Crew(job, Given(load_transform(job.folder), read_manifest(job.folder)[0], uri), needs)
    yield Progress(found, total, 0, wanted, 0.0, note)
    for done in crew.train(missing):
        while outlet and crew.entries:
            outlet.add(crew.entries.pop(0))
        trained = done * epochs + crew.epochs()
        yield Progress(found + done, total, trained, wanted, time.monotonic() - start, crew.take_note())


def _device(asked: str, gpus: float, share: float | None, grows: bool) -> str:
    """Where the experts are trained; ``auto`` is where the cluster's GPUs are, if it has any.

    Raises:
        ValueError: A GPU is asked for and the cluster has none.
    """
    if gpus == 0 and share is not None:
        raise ValueError(f"--gpus-per-worker {share:g}: the cluster has no GPU; leave it out, or add a node with one")
    if gpus == 0 and grows and asked == "cuda":
        raise ValueError("--device cuda: the cluster has no GPU; use --device cpu, or add a node with one")
    return asked if asked != "auto" else "cuda" if gpus else "cpu"


def _layout(asked: int | None, jobs: int, gpu: bool, share: float | None, grows: bool) -> Plan:
    """How many workers are started; of a cluster that grows those too for which there is no room yet."""
    try:
        layout = spread(asked, jobs, free_nodes(), gpu, share)
    except ValueError:
        if not grows or (asked is not None and asked < 1):
            raise
        share = (share or 1.0) if gpu else 0.0
        return Plan(min(asked or 1, jobs), 1, share, "the cluster has no room for a worker yet: waiting for a node")
    wanted = min(asked or 1, jobs)
    if grows and wanted > layout.workers:
        return layout._replace(workers=wanted, note=f"{layout.note}, more as nodes come")
    return layout
