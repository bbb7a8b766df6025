"""Distill a synthetic set: `raydd.distill`."""

from pathlib import Path

import torch

from raydd.api.experts import cached_buffer
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, print_note, resolve_device
from raydd.io.console import Screen
from raydd.io.memory import keep_memory
from raydd.io.uri import is_uri
from raydd.methods import complete
from raydd.run.callbacks import follow
from raydd.run.distillation import begin, conclude, prepare
from raydd.run.experts import find_experts
from raydd.run.requirements import concurrent_workers
from raydd.run.resolve import BufferRequest, check_on_experts, check_run, resolve
from raydd.run.run import Run
from raydd.run.storage import open_storage


def distill(
    config: DistillConfig,
    out: Path | str,
    *,
    buffer: Path | str | None = None,
    resume: bool = False,
    where: Where = HERE,
    screen: Screen | None = None,
) -> SyntheticSet:
    """Distill a synthetic set into a run folder.

    Args:
        config: The run.
        out: Its folder, or a URI such as ``s3://bucket/run``, where each checkpoint is saved as the run goes on.
        buffer: The experts, a folder or a URI; None uses the cache's buffer of the configuration, and trains what it
            lacks, where the configuration needs any.
        resume: Go on from the checkpoint there, if there is one.
        where: The device, the cluster and its workers. With an address, or with several workers for the rollouts or
            shards of a step, Ray workers distill, and others go on when one dies; else this process does.
        screen: Shows progress.

    Returns:
        The synthetic set; also ``out/synset.arrow``. ``out/frames/`` shows it at about 20 outer steps, and
        ``out/tensorboard/`` holds the run's event files.

    Raises:
        ValueError: The run cannot start; nothing is written.
        OSError: The URI cannot be read or written.
        FloatingPointError: The loss stays infinite or NaN; the checkpoint is kept.

    >>> import tempfile, raydd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     raydd.distill(raydd.DistillConfig(method="random", ipc=2, threads=1), folder).images.shape
    torch.Size([20, 1, 8, 8])
    """
    screen = screen or Screen()
    keep_memory()
    check_workers(where)
    config = complete(config)
    if where.address is not None or concurrent_workers(config, where) > 1:
        return _on_ray(config, out, buffer, resume, where, screen)
    request = BufferRequest(lambda config, work: _train(config, work, where, screen), buffer)
    with open_storage(out, "raydd distill", screen.note) as storage:
        device = resolve_device(where.device)
        context = resolve(config, storage.folder, request, device, resume=resume, note=screen.note)
        context, need = prepare(context, screen)
        with screen.doing("preparing the run"):
            run = Run(context)
        begin(run, need, storage, screen)
        follow(run, screen, storage.save)
        return conclude(storage)


def _on_ray(
    config: DistillConfig, out: Path | str, buffer: Path | str | None, resume: bool, where: Where, screen: Screen
) -> SyntheticSet:
    """Let a worker of Ray distill; on a cluster this process needs neither its device nor its disk."""
    from raydd.remote.distillation import Request, distill_on_ray

    def train(config: DistillConfig) -> Path:
        return _train(config, check_run(config, torch.device("cpu")), where, screen)

    if where.address is None:  # the machine of the worker: refuse before Ray starts
        resolve_device(where.device)
        if buffer is None:
            check_run(config, torch.device("cpu"))
        elif not is_uri(buffer):
            check_on_experts(config, find_experts(Path(buffer), config), torch.device("cpu"), verified=True)
    return distill_on_ray(Request(config, out, buffer, resume, where), screen, train)


def _train(config: DistillConfig, work: Workspace, where: Where, screen: Screen) -> Path:
    """Complete the cache's buffer."""
    print_note(work.dataset, screen)
    return cached_buffer(config, work, where, screen)
