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
from raydd.config.parsing import first_difference
from raydd.config.schema import DistillConfig, ExpertsConfig, WindowConfig
from raydd.data.datasets import find_source
from raydd.data.preprocessing import Transform, fit_transform
from raydd.data.workspace import Workspace, with_placed_data
from raydd.distillation.setup import asks_experts, check_labels, check_network, leaves, tiles_of
from raydd.distillation.trajectory_matching import start_window
from raydd.models.zoo import find
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.numerics.windows import growing
from raydd.run.experts import bind_experts, find_experts, plain_workspace, settle
from raydd.run.families import check_family
from raydd.run.run_folder import claim
from raydd.selection.starting_images import clusters_of, real


@dataclass(frozen=True, eq=False)
class RunContext:
    """A run whose settings are complete, checked and bound.

    Attributes:
        config: The settings as they run: with the buffer's own recipe, threads and mirroring.
        folder: The run folder.
        buffer: The experts; None where the settings need none.
        work: Data set, preprocessing, network, device.
        before: The settings of the run that the folder holds, to be resumed; None where it holds none.
    """

    config: DistillConfig
    folder: Path
    buffer: ArrowBuffer | None
    work: Workspace
    before: DistillConfig | None = None


@dataclass(frozen=True)
class BufferRequest:
    """The experts that a run asks for.

    Attributes:
        train: Completes the cache's buffer for settings and data, and returns its folder.
        place: A folder or a URI that takes the place of the cache's buffer.
        limit: Use the first so many experts; None uses all of a named buffer.
        verified: The bytes have been compared with their checksums already.
    """

    train: Callable[[DistillConfig, Workspace], Path]
    place: Path | str | None = None
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
    """Check a complete configuration, and bind it to its data, network and experts.

    Args:
        config: The settings, with the method's own values (`raydd.methods.complete`).
        folder: The run folder, which is only read.
        request: The experts; those that the cache lacks are trained when all else is checked.
        device: Where the run computes.
        resume: Go on with the run that the folder holds, if any.
        note: Called with a line about what is not as the settings ask.

    Raises:
        ValueError: The run cannot start; the message says why, and what to change.
    """
    check_names(config)
    before = claim(folder, resume)
    config = _as_before(with_placed_data(config), before)
    if request.place is not None:
        limit = request.limit or (before.experts.num_experts if before else None)
        buffer = find_experts(local_folder(request.place, note), config, limit)
        optimizer, config = config.experts.optimizer, settle(config, buffer, before)
        work = bind_experts(buffer, config, check_run(config, device, buffer.epochs), verified=request.verified)
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


def check_run(config: DistillConfig, device: torch.device, epochs: int | None = None) -> Workspace:
    """Refuse what cannot run, and return the data and the network, without a fitted preprocessing.

    Args:
        config: The settings, complete.
        device: Where the run computes.
        epochs: Epochs of the experts; None takes those of the settings.

    Raises:
        ValueError: A setting is wrong, or does not fit the experts, the data or the network.
    """
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


def _as_before(config: DistillConfig, before: DistillConfig | None) -> DistillConfig:
    """The configuration of a resumed run, which mirrors images as before unless the settings say otherwise."""
    if before is None or config.data.flip is not None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"flip": before.data.flip})})


def _bound(config: DistillConfig) -> dict[str, object]:
    """The settings that a resumed run must repeat: all but those on which no bit of a step depends."""
    return config.model_dump(exclude={"steps", "checkpoint_seconds"})


def needs_experts(config: DistillConfig) -> bool:
    """Whether a run reads a buffer: to match it, to compare images through it, or to ask it about images."""
    compares = config.match == "statistics" and config.statistic.networks in {"experts", "mixed"}
    return config.match == "trajectories" or compares or asks_experts(config)


def check_names(config: DistillConfig | ExpertsConfig) -> None:
    """Refuse an unknown data set or network, before any image is decoded.

    Raises:
        ValueError: Naming it, and what is near.
    """
    find(config.experts.network)
    find_source(config.data.dataset)


def check_settings(config: DistillConfig) -> None:
    """Refuse what cannot run whatever the images are, before any of them is decoded.

    Raises:
        ValueError: Naming the settings.
    """
    check_lines(config)
    check_experts(config)
    check_labels(config)
    leaves(config, Transform(config.data.preprocessing))  # not fitted yet: only its kind counts
    check_family(config)
    check_formation(config)
    check_scores(config, config.data.validation)


def check_data(config: DistillConfig, work: Workspace) -> None:
    """Refuse settings that do not fit the images or the network.

    Raises:
        ValueError: More images a class than there are, or than clusters can share; batch norm without right
            statistics; no validation split to select on.
    """
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
    real(work.dataset, work.transform, config.ipc, generator(config.seed, "check"))
    if config.initial == "representative":
        clusters_of(config.ipc * tiles, config.clusters)
    check_network(config, FlatModel(work.build))
    share = 0.1 if config.data.validation == 0 else math.ceil(50 / int(sizes.max())) / 100
    check_scores(config, len(work.dataset.validation), share)


def check_formation(config: DistillConfig) -> None:
    """Refuse several images in one where images would be left out, or where there are no pictures to cut up.

    Raises:
        ValueError: Naming the settings.
    """
    if config.formation.decode == "bounded" and config.formation.bound < config.ipc:
        raise ValueError(
            f"formation.bound {config.formation.bound} is less than ipc {config.ipc}, so that images were left out; "
            f"use --set formation.bound={config.ipc} or more"
        )
    if config.formation.factor > 1 and config.data.preprocessing == "zca":
        raise ValueError(
            f"formation.factor {config.formation.factor} cuts up pictures, and zca makes none; "
            "use --set data.preprocessing=normalise, or --set formation.factor=1"
        )


def check_lines(config: DistillConfig) -> None:
    """Refuse settings of convexified trajectories without those, or that contradict each other.

    Raises:
        ValueError: Naming the settings.
    """
    if config.match == "trajectories":
        knots(config.waypoints, config.experts.epochs)
    used = {
        "waypoints": config.waypoints,
        "window.continuous": config.window.continuous,
        "experts.kept": config.experts.kept is not None,
    }
    for name in (name for name, value in used.items() if value and not config.convexify):
        raise ValueError(f"{name} is for convexified trajectories; use --method mct, --set convexify=true, or drop it")
    if config.experts.kept is not None and config.waypoints not in ((), config.experts.kept):
        raise ValueError(
            f"waypoints {config.waypoints} and experts.kept {config.experts.kept} differ; give both the same epochs"
        )


def check_start(config: DistillConfig, epochs: int) -> None:
    """Refuse a window of start epochs that experts of so many epochs cannot serve; one that is yet to be found can."""
    if config.match != "trajectories":
        return
    if config.window.auto:
        config = config.model_copy(update={"window": WindowConfig()})
    low, current, high = start_window(config, epochs)
    check_window((low, high), config.span, epochs)
    growing(low, current, high, config.window.interval)


def check_experts(config: DistillConfig) -> None:
    """Refuse to leave the only expert out, or to leave one out of what matches no trajectories."""
    asked = "window.auto" if config.window.auto else "probe_every" if config.probe_every else None
    if asked and config.match != "trajectories":
        raise ValueError(f"{asked} measures matched trajectories, and method {config.method} matches none; drop it")
    if asked and config.experts.num_experts < 2:
        raise ValueError(f"{asked} needs an expert that takes no part, and there is but 1; use --num-experts 2 or more")


def check_scores(config: DistillConfig, held_out: float, share: float = 0.1) -> None:
    """Refuse scores on a validation split of no images, and to keep scored sets where none is scored.

    Args:
        config: The run.
        held_out: Images of the validation split, or their share.
        share: A share that holds some out.
    """
    if config.evaluate_every is not None and not held_out:
        raise ValueError(
            f"evaluate_every = {config.evaluate_every} needs a validation split, and with "
            f"data.validation={config.data.validation:g} there is none; use --set data.validation={share:g}, or drop "
            "evaluate_every: the result is then the last step"
        )
    if config.keep_scored and config.evaluate_every is None:
        raise ValueError("keep_scored keeps scored sets, and none is scored: use --set evaluate_every=N or drop it")
