"""Train a buffer of experts: `raydd.train_experts`."""

import os
import time
from contextlib import closing
from pathlib import Path

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer, refresh_manifest
from raydd.buffer.expert_file import expert_path
from raydd.buffer.mirror import local_folder
from raydd.buffer.upload import BufferUpload
from raydd.config.placement import HERE, Where, check_share, check_workers
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.datasets import Split
from raydd.data.mirroring import mirroring_note as mirror_words, mirrors
from raydd.data.workspace import Workspace, load_images, print_note, resolve_device, with_absolute_path
from raydd.io.console import Pace, Screen, clock, left
from raydd.io.filesystem import open_store
from raydd.io.lock import alone
from raydd.io.uri import is_uri
from raydd.remote import connected
from raydd.run.requirements import experts_need
from raydd.run.resolve import check_names
from raydd.training.expert import train_expert
from raydd.training.expert_worker import ExpertJob, buffer_destination, default_buffer, prepare


def train_experts(
    config: ExpertsConfig, out: Path | str | None = None, *, where: Where = HERE, screen: Screen | None = None
) -> Path | str:
    """Train the experts that a buffer lacks, on Ray.

    Workers on nodes that do not see the folder send their snapshots one at a time. Where the buffer is at a URI, each
    worker uploads its experts itself.

    Args:
        config: The buffer.
        out: Its folder, or a URI such as ``s3://bucket/digits``; None takes the cache's.
        where: Workers, cluster and device.
        screen: Shows progress.

    Returns:
        The buffer's folder, or its URI.

    Raises:
        ValueError: Unknown data set or network, or a folder that holds another buffer; nothing is written.
        RuntimeError: An expert failed; finished experts are kept, and the same call goes on.
        OSError: The URI cannot be read or written.

    Example: examples/experts_and_distill.py (it starts a Ray).
    """
    screen, config = screen or Screen(), with_absolute_path(config)
    check_workers(where)
    check_names(config)
    destination, upload = buffer_destination(out or default_buffer(config))
    folder = upload.folder if upload else Path(destination)
    ours = folder == default_buffer(config).absolute()  # in the cache: others that need the same experts wait
    with alone(folder, "raydd experts", screen.note, wait=ours):
        _train_experts(config, destination, upload, where, screen)
    return destination


def _train_experts(
    config: ExpertsConfig, destination: Path | str, upload: BufferUpload | None, where: Where, screen: Screen
) -> None:
    others = where.address is not None or connected()  # whose nodes may have other devices
    device = where.device if others else resolve_device(where.device).type
    check_share(where.gpus_per_worker, device)
    folder, target = (upload.folder, upload.store.public_uri) if upload else (Path(destination), str(destination))
    job, missing = prepare(ExpertJob(config.data, config.experts, config.seed, folder, device), upload)
    total = config.experts.num_experts
    if not missing:
        if upload is None:
            refresh_manifest(folder)
        screen.note(f"{target}: all {total} experts are there")
        return
    from raydd.remote.experts import train_missing
    from raydd.remote.session import session

    if mirrors(config.data):
        screen.once(mirror_words(config.data.dataset))
    print_note(load_images(config.data), screen)
    need = experts_need(job, len(missing), where, upload is None)
    screen.note(f"{target}: training {len(missing)} of {total} experts ({config.experts.network}), {need.words()}")
    steps = train_missing(job, missing, where, note=screen.note, upload=upload)
    total_epochs, pace = len(missing) * config.experts.epochs, Pace()
    with (
        session(where.address, screen.note),
        closing(steps),
        screen.progress("experts", total_epochs) as update,
    ):  # in this order
        for step in steps:
            if step.note:
                screen.note(step.note)
            rest = left(pace.left(step.epochs, total_epochs)) if step.epochs else "starting workers"
            update(step.epochs, f"epochs, {step.done}/{step.total} experts {rest}")
    screen.note(f"{target}: {total} experts")


def estimate_seconds(config: ExpertsConfig, work: Workspace, workers: int) -> float:
    """Estimate the time of a buffer's training from the second epoch on a part of the data, on one thread."""
    whole = work.dataset.train
    rows = whole.index[:: max(1, min(8, len(whole) // config.experts.batch_size))]
    part, nothing = (Split(whole.images, whole.labels, index) for index in (rows, rows[:0]))
    recipe = config.experts.model_copy(update={"epochs": 2})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.monotonic()
    for snapshot in train_expert(recipe, work.build, work.feed(part), work.feed(nothing), work.augment, (0, 0)):
        start = time.monotonic() if snapshot.epoch == 1 else start
    epoch = (time.monotonic() - start) * len(whole) / len(rows)
    torch.set_num_threads(threads)
    return epoch * config.experts.epochs * config.experts.num_experts / workers


def cached_buffer(config: DistillConfig, work: Workspace, where: Where, screen: Screen) -> Path:
    """Return the cache's buffer of a run's experts; train those it lacks, after a note on how long that may take."""
    wanted = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
    folder, total = default_buffer(wanted), config.experts.num_experts
    missing = sum(not expert_path(folder, index).exists() for index in range(total))
    if missing:
        cores = len(os.sched_getaffinity(0))
        seconds = missing / total * estimate_seconds(wanted, work, min(where.num_workers or cores, cores))
        screen.note(f"no finished buffer in the cache: training experts first, about {clock(seconds)}")
    train_experts(wanted, folder, where=where, screen=screen)
    return folder


def check_buffer(buffer: Path | str | None) -> None:
    """Refuse a folder or URI without a buffer, before data is decoded; a URI is not fetched for that."""
    if buffer is None:
        return
    local = open_store(os.fspath(buffer)).local if is_uri(buffer) else local_folder(buffer)
    if local is not None:
        ArrowBuffer(local)
