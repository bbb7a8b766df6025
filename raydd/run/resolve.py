"""Resolve a run: check its settings once, and bind them to data, network and experts. Nothing here writes.

`resolve` returns a `RunContext`; everything after takes it and checks nothing again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.convexified import knots
from raydd.buffer.mirror import local_folder
from raydd.buffer.segments import check_window
from raydd.config.components import WindowConfig
from raydd.config.parsing import Config, first_difference
from raydd.config.rules import FOREIGN, check_scores, method_rules
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.datasets import find_source
from raydd.data.preprocessing import fit_transform
from raydd.data.workspace import Workspace, with_absolute_path
from raydd.distillation.setup import asks_experts, check_network, tiles_of
from raydd.distillation.trajectory_matching import start_window
from raydd.methods import find_method
from raydd.models.zoo import find
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.numerics.windows import growing
from raydd.run.experts import bind_experts, find_experts, plain_workspace, settle
from raydd.run.run_folder import previous_run
from raydd.selection.class_sampler import Request, real
from raydd.selection.starting_images import clusters_of


@dataclass(frozen=True, eq=False)
class RunContext:
    """A run whose settings are complete, checked and bound.

    ``buffer`` is None where no experts are needed, ``before`` where the folder holds no run to be resumed.
    """

    config: DistillConfig
    folder: Path
    buffer: ArrowBuffer | None
    work: Workspace
    before: DistillConfig | None = None


@dataclass(frozen=True)
class BufferRequest:
    """The experts that a run asks for: those of a named buffer, a folder or a URI, else the cache's.

    ``train`` completes the cache's buffer and returns its folder; ``verified`` bytes are not read again.
    """

    train: Callable[[DistillConfig, Workspace], Path]
    named: Path | str | None = None
    limit: int | None = None
    verified: bool = False


def resolve(
    config: DistillConfig,
    folder: Path,
    request: BufferRequest,
    device: torch.device,
    *,
    resume: bool = False,
    note: Callable[[str], None] | None = None,
) -> RunContext:
    """Check a complete configuration, and bind it; missing experts are trained when all else is checked."""
    check_names(config)
    before = previous_run(folder, resume)
    config = with_absolute_path(config)
    if before is not None and config.data.flip is None:  # a resumed run mirrors images as before
        config = config.model_copy(update={"data": config.data.model_copy(update={"flip": before.data.flip})})
    if request.named is not None:
        limit = request.limit or (before.experts.num_experts if before else None)
        buffer = find_experts(local_folder(request.named, note), config, limit)
        optimizer = config.experts.optimizer
        config, work = check_on_experts(config, buffer, device, before, verified=request.verified)
        if note and optimizer != config.experts.optimizer:
            kinds = f"{config.experts.optimizer}, not {optimizer}"
            note(f"{buffer.folder}: these experts were trained by {kinds} as the settings ask; going on with them")
        return bind(config, folder, buffer, work, before)
    work = check_run(config, device)
    if not needs_experts(config):
        work = replace(work, transform=fit_transform(config.data.preprocessing, work.dataset))
        return bind(settle(config, None, before), folder, None, work, before)
    buffer = find_experts(request.train(config, work), config, request.limit or config.experts.num_experts)
    work = bind_experts(buffer, config, work, verified=request.verified)
    return bind(settle(config, buffer, before), folder, buffer, work, before)


def check_on_experts(
    config: DistillConfig,
    buffer: ArrowBuffer,
    device: torch.device,
    before: DistillConfig | None = None,
    *,
    verified: bool = False,
) -> tuple[DistillConfig, Workspace]:
    """Refuse what cannot run on these experts; return the settings as they run, and the data with their network."""
    config = settle(config, buffer, before)
    return config, bind_experts(buffer, config, check_run(config, device, buffer.epochs), verified=verified)


def check_run(config: DistillConfig, device: torch.device, epochs: int | None = None) -> Workspace:
    """Refuse what cannot run, and return the data and the network, without a fitted preprocessing."""
    check_start(config, epochs or config.experts.epochs)
    check_settings(config)
    work = plain_workspace(config, device)
    check_data(config, work)
    return work


def bind(
    config: DistillConfig, folder: Path, buffer: ArrowBuffer | None, work: Workspace, before: DistillConfig | None
) -> RunContext:
    """Return the context of a run, and refuse to resume one of other settings."""
    data = config.data.model_copy(update={"flip": work.dataset.flip})
    config = config.model_copy(update={"data": data})
    if config.window.auto and before is not None:
        config = _found_before(config, before, folder)
    if before and (different := first_difference(_bound(before), _bound(config))):
        raise ValueError(f"{folder} was started with other settings: {different}; repeat them, or another --out")
    return RunContext(config, folder, buffer, work, before)


def _found_before(config: DistillConfig, before: DistillConfig, folder: Path) -> DistillConfig:
    """The configuration with the window that the resumed run found by trial."""
    if not (folder / "window.json").exists():
        raise ValueError(f"{folder} was started without --window auto; resume it with the window it had")
    window = {name: getattr(before.window, name) for name in ("low", "current", "high")} | {"auto": False}
    return config.model_copy(update={"window": config.window.model_copy(update=window)})


def _bound(config: DistillConfig) -> dict[str, object]:
    """The settings that a resumed run must repeat: all but those on which no bit of a step depends."""
    staged = config.match == "loss" and config.unrolled.position == "gradient"  # by the share of all steps
    return config.model_dump(exclude={"checkpoint_seconds", "memory"} | (set() if staged else {"steps"}))


def needs_experts(config: DistillConfig) -> bool:
    """Whether a run reads a buffer: to match it, to compare images through it, or to ask it about images."""
    compares = config.match == "statistics" and config.statistic.networks in {"experts", "mixed"}
    return config.match == "trajectories" or compares or asks_experts(config)


def check_names(config: DistillConfig | ExpertsConfig) -> None:
    """Refuse an unknown data set or network, before any image is decoded."""
    find(config.experts.network)
    find_source(config.data.dataset)


def check_settings(config: DistillConfig) -> None:
    """Refuse what cannot run whatever the images are, before any of them is decoded."""
    if config.match == "trajectories":
        knots(config.waypoints, config.experts.epochs)
    if config.match != (own := find_method(config.method).match):
        raise ValueError(f"match = {config.match}, but method {config.method} matches {own}; choose another --method")
    method_rules(config)
    check_family(config)


def check_family(config: DistillConfig) -> None:
    """Refuse settings of another family, which would do nothing, and an unknown strategy of augmentation."""
    plain = DistillConfig()
    for name in FOREIGN[config.match]:
        value, default, key = getattr(config, name), getattr(plain, name), name
        if value == default or (name == "statistic" and config.statistic.beside):
            continue
        if isinstance(value, Config):
            part = next(part for part, each in value if each != getattr(default, part))
            value, key = getattr(value, part), f"{name}.{part}"
        raise ValueError(
            f"{key} = {value} means nothing to method {config.method}, which matches {config.match}; drop it"
        )
    initial = find_method(config.method).defaults.get("initial", plain.initial)
    if config.match == "nothing" and config.initial != initial:
        raise ValueError(
            f"initial = {config.initial}, but method {config.method} is {initial}; choose another --method"
        )
    augment(config.statistic.augment, strategy=config.statistic.strategy)


def check_data(config: DistillConfig, work: Workspace) -> None:
    """Refuse settings that do not fit the images or the network."""
    tiles = tiles_of(config)
    sizes = torch.bincount(work.dataset.train.targets, minlength=len(work.dataset.classes))
    smallest, there = work.dataset.classes[int(sizes.argmin())], int(sizes.min())
    if tiles > 1 and config.ipc * tiles > there:
        raise ValueError(
            f"ipc {config.ipc} with formation.factor {config.formation.factor} takes {config.ipc * tiles} images a "
            f"class, and class {smallest!r} of {work.dataset.name} has {there}; use --ipc {there // tiles} or less"
        )
    if config.formation.factor > work.dataset.size:
        raise ValueError(
            f"formation.factor {config.formation.factor} cuts {work.dataset.size} pixels a side into nothing; use less"
        )
    _check_shards(config, len(work.dataset.classes), tiles)
    real(Request(work.dataset, work.transform, config.ipc, generator(config.seed, "check")))
    if config.initial == "representative":
        clusters_of(config.ipc * tiles, config.clusters)
    check_network(config, FlatModel(work.build))
    share = 0.1 if config.data.validation == 0 else math.ceil(50 / int(sizes.max())) / 100
    check_scores(config, len(work.dataset.validation), share)


def _check_shards(config: DistillConfig, classes: int, tiles: int) -> None:
    """Refuse more shards than a step has classes, or images."""
    if config.match == "statistics" and config.shards > classes:
        raise ValueError(
            f"shards = {config.shards}: {config.data.dataset} has {classes} classes; use --shards {classes} or less"
        )
    images = config.ipc * classes * (1 if config.formation.decode == "bounded" else tiles)
    batch = min(config.batch_size or images, images)
    if config.match == "trajectories" and config.shards > batch:
        raise ValueError(f"shards = {config.shards}: a student step has {batch} images; use --shards {batch} or less")


def check_start(config: DistillConfig, epochs: int) -> None:
    """Refuse a window of start epochs that experts of so many epochs cannot serve; one that is yet to be found can."""
    if config.match != "trajectories":
        return
    if config.window.auto:
        config = config.model_copy(update={"window": WindowConfig()})
    low, current, high = start_window(config, epochs)
    check_window((low, high), config.span, epochs)
    growing(low, current, high, config.window.interval)
