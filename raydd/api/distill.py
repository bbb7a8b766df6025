"""Distill a synthetic set: `raydd.distill`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from raydd.api.experts import cached_buffer
from raydd.config.parsing import words
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import DistillConfig
from raydd.data.mirroring import distillation_mirrors, mirroring_note as mirror_words
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, print_note
from raydd.figures.synset_picture import grid, save_png
from raydd.io.console import Screen
from raydd.io.lock import alone
from raydd.io.memory import keep_memory
from raydd.methods import complete
from raydd.run.callbacks import follow
from raydd.run.requirements import concurrent_workers, distillation_need, own_device
from raydd.run.resolve import BufferRequest, RunContext, resolve
from raydd.run.rollout_worker import StartWorkers, concurrent_parts
from raydd.run.run import Run
from raydd.run.window_search import with_window


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
        out: Its folder.
        buffer: The experts, a folder or a URI; None uses the cache's buffer of the configuration, and trains what it
            lacks, where the configuration needs any.
        resume: Go on from the folder's checkpoint, if there is one.
        where: Workers and cluster, for experts that must be trained and for several rollouts or shards a step; the
            device.
        screen: Shows progress.

    Returns:
        The synthetic set; also ``out/synset.arrow``. ``out/frames/`` shows it at about 20 outer steps, and
        ``out/tensorboard/`` holds the run's event files.

    Raises:
        ValueError: The run cannot start; nothing is written.
        FloatingPointError: The loss stays infinite or NaN; the checkpoint is kept.

    >>> import tempfile, raydd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     raydd.distill(raydd.DistillConfig(method="random", ipc=2, threads=1), folder).images.shape
    torch.Size([20, 1, 8, 8])
    """
    screen, out = screen or Screen(), Path(out)
    keep_memory()
    check_workers(where)
    config = complete(config)
    request = BufferRequest(lambda config, work: _train(config, work, where, screen), buffer)
    with alone(out, "raydd distill", screen.note):
        context = resolve(config, out, request, own_device(config, where), resume=resume, note=screen.note)
        return _run(context, where, screen)


def _train(config: DistillConfig, work: Workspace, where: Where, screen: Screen) -> Path:
    """Complete the cache's buffer."""
    print_note(work.dataset, screen)
    return cached_buffer(config, work, where, screen)


def _run(context: RunContext, where: Where, screen: Screen) -> SyntheticSet:
    config, out = context.config, context.folder
    if distillation_mirrors(config):
        screen.once(mirror_words(config.data.dataset))
    print_note(context.work.dataset, screen)
    need = distillation_need(context, where)
    torch.set_num_threads(config.threads or 1)
    context = with_window(context, screen.note)
    with _rollout_workers(config, where, screen) as start_workers:
        with screen.doing("preparing the run"):
            run = Run(context, start_workers)
        plain = DistillConfig()
        settings = words(run.config.model_copy(update={"preset": plain.preset}), beside=plain)
        screen.note(
            f"preset {config.preset}: {settings} (all else as by default; {out / 'config.yaml'} has everything)"
        )
        screen.note(f"needs {need.words()}")
        follow(run, screen)
    synset = SyntheticSet.load(out / "synset.arrow")
    save_png(grid(synset), out / "synset.png")
    return synset


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
        RolloutPool(where.num_workers, where.device, screen.note, where.gpus_per_worker) as pool,
    ):
        yield pool.start
