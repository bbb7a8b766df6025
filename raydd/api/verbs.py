"""The verbs as functions: what the command line calls, and what a script may.

Each takes a configuration, does the whole job, and tells of its progress through a `Screen`.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer, expert_path, refresh_manifest
from raydd.buffer.mirror import is_uri, local_folder, open_store
from raydd.buffer.upload import Outlet
from raydd.config.parsing import words
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.datasets import Split
from raydd.data.mirroring import mirrors, run_mirrors, words as mirror_words
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, load_images, open_workspace, resolve_device, tell, with_placed_data
from raydd.figures.curves import draw_window
from raydd.figures.style import save_figure
from raydd.figures.synset_picture import grid, save_png
from raydd.io.console import Pace, Screen, clock, left
from raydd.io.document import write_document
from raydd.io.lock import alone
from raydd.io.memory import keep_memory
from raydd.methods import complete
from raydd.run.callbacks import follow
from raydd.run.experts import check_fit, open_buffer, settle
from raydd.run.families import check_method, needs_experts
from raydd.run.placement import (
    HERE as HERE,
    Where as Where,
    check_share,
    check_workers as check_workers,
    distillation_need,
    experts_need,
    own_device,
    rollers,
)
from raydd.run.resolve import as_before, check, check_names, check_settings, claim, read_config
from raydd.run.rollout_worker import Spread
from raydd.run.run import Run
from raydd.run.window_search import PILOT_STEPS, find_window
from raydd.training.expert import train_expert
from raydd.training.expert_worker import Job, default_buffer, outlet_of, prepare


def train_experts(
    config: ExpertsConfig, out: Path | str | None = None, *, where: Where = HERE, screen: Screen | None = None
) -> Path | str:
    """Train the experts that a buffer lacks, on Ray.

    Workers on nodes that do not see the folder send what they train, a snapshot at a time. Of a buffer at an URI each
    puts its experts there itself.

    Args:
        config: The buffer.
        out: Its folder, or an URI such as ``s3://bucket/digits``; None takes the cache's.
        where: Workers, cluster and device.
        screen: Where progress is told.

    Returns:
        The buffer's folder, or its URI.

    Raises:
        ValueError: Unknown data set or network, or a folder that holds another buffer; nothing is written.
        RuntimeError: An expert failed; those finished are kept, and the same call goes on.
        OSError: The URI cannot be read or written.

    Example: examples/experts_and_distill.py (it starts a Ray).
    """
    screen, config = screen or Screen(), with_placed_data(config)
    check_workers(where)
    check_names(config)
    place, outlet = outlet_of(out or default_buffer(config))
    folder = outlet.folder if outlet else Path(place)
    ours = folder == default_buffer(config).absolute()  # of the cache: whoever needs the same experts waits for them
    with alone(folder, "raydd experts", screen.note, wait=ours):
        _train_experts(config, place, outlet, where, screen)
    return place


def _train_experts(
    config: ExpertsConfig, place: Path | str, outlet: Outlet | None, where: Where, screen: Screen
) -> None:
    device = where.device if where.address else resolve_device(where.device).type  # a cluster's nodes may have others
    check_share(where.gpus_per_worker, device)
    folder, shown = (outlet.folder, outlet.store.shown) if outlet else (Path(place), str(place))
    job, missing = prepare(Job(config.data, config.experts, config.seed, folder, device), outlet)
    total = config.experts.num_experts
    if not missing:
        if outlet is None:
            refresh_manifest(folder)
        screen.note(f"{shown}: all {total} experts are there")
        return
    from raydd.remote.experts import train_missing
    from raydd.remote.session import session

    if mirrors(config.data):
        screen.once(mirror_words(config.data.dataset))
    tell(load_images(config.data), screen)
    need = experts_need(job, len(missing), where, outlet is None)
    screen.note(f"{shown}: training {len(missing)} of {total} experts ({config.experts.network}), {need.words()}")
    share, grows = where.gpus_per_worker, where.address is not None
    steps = train_missing(job, missing, where.num_workers, gpus_per_worker=share, grows=grows, outlet=outlet)
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
    screen.note(f"{shown}: {total} experts")


def estimate_seconds(config: ExpertsConfig, work: Workspace, workers: int) -> float:
    """About how long the buffer's experts will take, from a second epoch on a part of the data, on one thread."""
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
        buffer: The experts, a folder or an URI; None uses the cache's buffer for the configuration, and trains what it
            lacks, where the configuration needs any.
        resume: Go on from the folder's checkpoint, where there is one.
        where: Workers and cluster for experts that must be trained, and for a step's rollouts where it has several;
            the device of all.
        screen: Where progress is told.

    Returns:
        The synthetic set; also ``out/synset.arrow``. Beside it ``frames/`` shows it at about 20 outer steps, and
        ``tensorboard/`` tells TensorBoard of all.

    Raises:
        ValueError: Whatever cannot run is refused before anything is written.
        FloatingPointError: The loss stays infinite or NaN; the checkpoint is kept.

    >>> import tempfile, raydd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     raydd.distill(raydd.DistillConfig(method="random", ipc=2, threads=1), folder).images.shape
    torch.Size([20, 1, 8, 8])
    """
    screen, out = screen or Screen(), Path(out)
    keep_memory()
    check_workers(where)
    check_method(config)
    check_names(complete(config))
    with alone(out, "raydd distill", screen.note):
        claim(out, resume)
        return _distill(config, out, buffer, resume, where, screen)


def _distill(
    config: DistillConfig, out: Path, buffer: Path | str | None, resume: bool, where: Where, screen: Screen
) -> SyntheticSet:
    before = read_config(out)
    config, target = as_before(with_placed_data(complete(config)), before), own_device(config, where)
    if run_mirrors(config):
        screen.once(mirror_words(config.data.dataset))
    most = before.experts.num_experts if before else None
    if buffer is not None:
        buffer = local_folder(buffer, screen.note)
        found = ArrowBuffer(buffer, most)
        check_fit(found, config)
        check_settings(settle(config, found, out))
    elif needs_experts(config):
        buffer = cached_buffer(config, check_early(config, where), where, screen)
        most = config.experts.num_experts
    if buffer is None:
        check_settings(config)
        experts, work = None, open_workspace(config.data, config.experts.network, target)
    else:
        experts, work = open_buffer(Path(buffer), config, target, most)
    tell(work.dataset, screen)
    asked, config = config, settle(config, experts, out)
    if asked.experts.optimizer != config.experts.optimizer:
        kinds = f"{config.experts.optimizer}, not {asked.experts.optimizer}"
        screen.note(f"{buffer}: these experts were trained by {kinds} as the settings ask; going on with them")
    check(config, work)
    need = distillation_need(config, work, out, where)
    torch.set_num_threads(config.threads or 1)
    if config.window.auto and experts:
        config = _found_window(config, before, experts, work, out, screen)
    with _others(config, where, screen) as spread:
        with screen.doing("preparing the run"):
            run = Run(config, out, experts, work, resume, spread)
        told = words(config.model_copy(update={"preset": DistillConfig().preset}), beside=DistillConfig())
        screen.note(f"preset {config.preset}: {told} (all else as by default; {out / 'config.yaml'} has everything)")
        screen.note(f"needs {need.words()}")
        follow(run, screen)
    synset = SyntheticSet.load(out / "synset.arrow")
    save_png(grid(synset), out / "synset.png")
    return synset


@contextmanager
def _others(config: DistillConfig, where: Where, screen: Screen) -> Iterator[Spread | None]:
    """Ray actors for the rollouts of a run; None where it has one a step, or one worker on this machine makes all."""
    workers = min(config.rollouts, where.num_workers or rollers(config))
    if config.rollouts == 1 or (workers <= 1 and where.address is None):
        yield None
        return
    from raydd.remote.rollouts import Crew
    from raydd.remote.session import session

    with (
        session(where.address, screen.note),
        Crew(where.num_workers, where.device, screen.note, where.gpus_per_worker) as crew,
    ):
        yield crew.start


def _found_window(
    config: DistillConfig, before: DistillConfig | None, buffer: ArrowBuffer, work: Workspace, out: Path, screen: Screen
) -> DistillConfig:
    """The configuration with the window that trial finds, or that a resumed run found."""
    if before is not None:
        if not (out / "window.json").exists():
            raise ValueError(f"{out} was started without --window auto; resume it with the window it had")
        found = {name: getattr(before.window, name) for name in ("low", "current", "high")}
        return config.model_copy(update={"window": config.window.model_copy(update=found | {"auto": False})})
    screen.note(f"window: trying ranges of start epochs, {PILOT_STEPS} outer steps each")
    search = find_window(config, buffer, work, screen.note)
    write_document(out / "window.json", search.to_json())
    save_figure(draw_window(search.to_json()), out / "window.png")
    return config.model_copy(update={"window": search.window(config.window)})


def check_buffer(place: Path | str | None) -> None:
    """Refuse a place where no buffer can be, before data is decoded; a URI is not fetched for that.

    Raises:
        ValueError: There is no buffer, or no such kind of store.
    """
    if place is None:
        return
    local = open_store(os.fspath(place)).local if is_uri(place) else local_folder(place)
    if local is not None:
        ArrowBuffer(local)


def check_early(config: DistillConfig, where: Where) -> Workspace:
    """Refuse what cannot run before experts are trained for it.

    Raises:
        ValueError: See `raydd.run.resolve.check`.
    """
    config = complete(config)
    check_names(config)
    check_settings(config)
    plain = config.data.model_copy(update={"preprocessing": "raw01"})  # checks need no fitted preprocessing
    work = open_workspace(plain, config.experts.network, own_device(config, where))
    check(config, work)
    return work


def cached_buffer(config: DistillConfig, work: Workspace, where: Where, screen: Screen) -> Path:
    """The cache's buffer of a configuration's experts; those missing are trained after saying how long it may take."""
    wanted = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
    folder, total = default_buffer(wanted), config.experts.num_experts
    missing = sum(not expert_path(folder, index).exists() for index in range(total))
    if missing:
        cores = len(os.sched_getaffinity(0))
        seconds = missing / total * estimate_seconds(wanted, work, min(where.num_workers or cores, cores))
        screen.note(f"no finished buffer in the cache: training experts first, about {clock(seconds)}")
    train_experts(wanted, folder, where=where, screen=screen)
    return folder
