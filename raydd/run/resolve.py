"""What must hold before a distillation starts; nothing here writes.

A run folder holds a run once it has a ``config.yaml``.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydd.buffer.convexified import knots
from raydd.buffer.segments import check_window
from raydd.config.parsing import build
from raydd.config.schema import DistillConfig, ExpertsConfig, WindowConfig
from raydd.data.datasets import find_source
from raydd.data.mirroring import stored_settings
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, with_absolute_path
from raydd.distillation.recipe import check_network, leaves, tiles_of
from raydd.distillation.trajectory_recipe import start_window
from raydd.io.bounded_file import read_text
from raydd.io.document import remove_text_checksum
from raydd.io.safe_yaml import parse_yaml
from raydd.models.zoo import find
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.numerics.windows import growing
from raydd.run.families import check_family, check_method
from raydd.selection.starting_images import clusters_of, real

RESULTS = ("synset.arrow", "synset.png", "best.arrow", "last.arrow", "metrics.jsonl", "memory.jsonl", "checkpoint")
_LEARNED = re.compile(r"leaves/|mean$")


def check(config: DistillConfig, work: Workspace) -> None:
    """Refuse, before anything is written, what cannot run.

    Raises:
        ValueError: Unknown method; more images a class than there are, or than clusters can share; a
            window beyond the experts, or that does not grow; waypoints beyond them; one expert, that shall
            take no part; labels that cannot be learned; batch norm where it has no right statistics; no validation
            split to select on.
    """
    check_settings(config)
    check_images(config, work)
    check_network(config, FlatModel(work.build))
    most = int(torch.bincount(work.dataset.train.targets).max())
    check_scores(
        config, len(work.dataset.validation), 0.1 if config.data.validation == 0 else math.ceil(50 / most) / 100
    )


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
        ValueError: As of `check`, but for what depends on the images.
    """
    check_method(config)
    check_start(config, config.experts.epochs)
    check_lines(config)
    check_experts(config)
    leaves(config, Transform(config.data.preprocessing))  # not fitted yet: only its kind counts
    check_family(config)
    check_scores(config, config.data.validation)


def check_images(config: DistillConfig, work: Workspace) -> None:
    """Refuse more images than there are, or than clusters can share; a mosaic takes one a tile.

    Raises:
        ValueError: Naming the class, or the settings.
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
    real(work.dataset, work.transform, config.ipc, generator(config.seed, "check"))
    if config.initial == "representative":
        clusters_of(config.ipc * tiles, config.clusters)


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


def read_config(folder: Path) -> DistillConfig | None:
    """The configuration of a run folder, or None where it holds no run.

    Raises:
        ValueError: If its config.yaml cannot be read.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return None
    try:
        tree = parse_yaml(remove_text_checksum(read_text(path)))
        data = tree.get("data") if isinstance(tree, dict) else None
        layers = {"data": stored_settings(data)} if isinstance(data, dict) else {}
        return with_absolute_path(build(DistillConfig, tree if isinstance(tree, dict) else {"config": tree}, layers))
    except ValueError as error:
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"{path} is no configuration of this raydd ({reason}); name another --out") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); name another --out") from None


def as_before(config: DistillConfig, before: DistillConfig | None) -> DistillConfig:
    """The configuration of a resumed run, which goes on to mirror images, or not, where nobody says."""
    if before is None or config.data.flip is not None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"flip": before.data.flip})})


def claim(folder: Path, resume: bool) -> None:
    """Refuse a folder that holds a run already, unless it is resumed, or a run's files without their config.yaml.

    Raises:
        ValueError: Naming the folder and the remedy.
    """
    if (folder / "config.yaml").exists():
        if not resume:
            raise ValueError(f"{folder} holds a run already; go on with --resume, or name another --out")
        return
    if there := [name for name in RESULTS if (folder / name).exists()]:
        raise ValueError(
            f"{folder} holds {there[0]} without a config.yaml, and it would be replaced; name another --out"
        )


def check_learned(
    checkpoint: Path, theirs: dict[str, Tensor], mine: dict[str, Tensor], history: Sequence[dict[str, Any]]
) -> Path | None:
    """Refuse to go on from another run's checkpoint where what it learned does not fit, or its best set is missing.

    Args:
        checkpoint: The other run's ``state.arrow``; its ``best.arrow`` lies beside it, or a folder above.
        theirs: The tensors of its state, by path.
        mine: The same of this run.
        history: Its scores.

    Returns:
        The file of its best set; None without scores.

    Raises:
        ValueError: Learned parts of other names or shapes, both named; or the best set is of a later score.
    """
    there, here = (
        {name.removeprefix("leaves/"): tuple(found[name].shape) for name in sorted(found) if _LEARNED.match(name)}
        for found in (theirs, mine)
    )
    if there != here:
        raise ValueError(
            f"{checkpoint} learned {there}, and this run learns {here}; take one of the same ipc and parts"
        )
    if not history:
        return None
    top = max(entry["mean"] for entry in history)
    first = next(entry for entry in history if entry["mean"] == top)
    for path in (folder / "best.arrow" for folder in checkpoint.parents[:2]):
        if path.exists() and first in SyntheticSet.load(path).history[-1:]:
            return path
    raise ValueError(f"{checkpoint} lies without the best.arrow of its scores; copy both right after a score")
