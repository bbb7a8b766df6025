"""Distill a synthetic set: `raydd.distill`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from raydd.api.experts import cached_buffer
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, print_note
from raydd.io.console import Screen
from raydd.io.memory import keep_memory
from raydd.methods import complete
from raydd.run.callbacks import follow
from raydd.run.distillation import begin, conclude, prepare
from raydd.run.requirements import concurrent_workers, own_device
from raydd.run.resolve import BufferRequest, check_run, resolve
from raydd.run.rollout_worker import StartWorkers, concurrent_parts
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
        where: The device, and the cluster. With an address, a worker of the cluster distills, and another one goes on
            when it dies. The workers are for experts that must be trained and for several rollouts or shards a step.
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
    if where.address is not None and concurrent_parts(config) == 1:
        return _on_cluster(config, out, buffer, resume, where, screen)
    request = BufferRequest(lambda config, work: _train(config, work, where, screen), buffer)
    with open_storage(out, "raydd distill", screen.note) as storage:
        context = resolve(config, storage.folder, request, own_device(config, where), resume=resume, note=screen.note)
        context, need = prepare(context, where, screen)
        with _rollout_workers(context.config, where, screen) as start_workers:
            with screen.doing("preparing the run"):
                run = Run(context, start_workers)
            begin(run, need, storage, screen)
            follow(run, screen, storage.save)
        return conclude(storage)


def _on_cluster(
    config: DistillConfig, out: Path | str, buffer: Path | str | None, resume: bool, where: Where, screen: Screen
) -> SyntheticSet:
    """Let a worker of the cluster distill; this process needs neither its device nor its disk."""
    from raydd.remote.distillation import Request, distill_on_cluster

    def train(config: DistillConfig) -> Path:
        return _train(config, check_run(config, torch.device("cpu")), where, screen)

    return distill_on_cluster(Request(config, out, buffer, resume, where), screen, train)


def _train(config: DistillConfig, work: Workspace, where: Where, screen: Screen) -> Path:
    """Complete the cache's buffer."""
    print_note(work.dataset, screen)
    return cached_buffer(config, work, where, screen)


@contextmanager
def _rollout_workers(config: DistillConfig, where: Where, screen: Screen) -> Iterator[StartWorkers | None]:
    """Ray actors for the parts of a run's steps; None where steps are whole, or for one worker on this machine."""
    parts = concurrent_parts(config)
    workers = min(parts, where.num_workers or concurrent_workers(config))
    if parts == 1 or (workers <= 1 and where.address is None):
        yield None
        return
    from raydd.remote.rollouts import RolloutPool
    from raydd.remote.session import session

    with (
        session(where.address, screen.note),
        RolloutPool(where.num_workers, where.device, screen.note, where.gpus_per_worker, where.max_wait) as pool,
    ):
        yield pool.start
