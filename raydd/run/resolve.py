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
from raydd.config.rules import check_scores, method_rules
from raydd.config.schema import DistillConfig, ExpertsConfig, WindowConfig
from raydd.data.datasets import find_source
from raydd.data.mirroring import recorded
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, with_placed_data
from raydd.distillation.recipe import check_network, tiles_of
from raydd.distillation.trajectory_recipe import start_window
from raydd.io.document import unsealed_text
from raydd.io.regular_file import read_text
from raydd.io.safe_yaml import parse_yaml
from raydd.models.zoo import find
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.numerics.windows import growing
from raydd.run.families import check_family, check_method
from raydd.selection.starting_images import clusters_of, real

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
    if config.match == "trajectories":
        knots(config.waypoints, config.experts.epochs)
    check_family(config)
    method_rules(config)


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
    real(work.dataset, work.transform, config.ipc, generator(config.seed, "check"))
    if config.initial == "representative":
        clusters_of(config.ipc * tiles, config.clusters)


def check_start(config: DistillConfig, epochs: int) -> None:
    """Refuse a window of start epochs that experts of so many epochs cannot serve; one that is yet to be found can."""
    if config.match != "trajectories":
        return
    if config.window.auto:
        config = config.model_copy(update={"window": WindowConfig()})
    low, current, high = start_window(config, epochs)
    check_window((low, high), config.span, epochs)
    growing(low, current, high, config.window.interval)


def read_config(folder: Path) -> DistillConfig | None:
    """The configuration of a run folder, or None where it holds no run.

    Raises:
        ValueError: If its config.yaml cannot be read.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return None
    try:
        tree = parse_yaml(unsealed_text(read_text(path)))
        data = tree.get("data") if isinstance(tree, dict) else None
        layers = {"data": recorded(data)} if isinstance(data, dict) else {}
        return with_placed_data(build(DistillConfig, tree if isinstance(tree, dict) else {"config": tree}, layers))
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
