"""A run's experts: opened, and held against its settings."""

import os
from pathlib import Path

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer, verify
from raydd.config.parsing import build
from raydd.config.schema import DistillConfig
from raydd.data.mirroring import check_mirroring
from raydd.data.preprocessing import load_transform
from raydd.data.workspace import Workspace, open_workspace
from raydd.distillation.recipe import check_network
from raydd.numerics.flat import FlatModel
from raydd.run.resolve import read_config


def check_fit(buffer: ArrowBuffer, config: DistillConfig) -> None:
    """Refuse a buffer that is not what the settings ask for, before any image is decoded; see `open_buffer`."""
    folder = buffer.folder
    buffer.expect(network=config.experts.network)
    if buffer.spec.preprocessing.get("kind") != config.data.preprocessing:
        raise ValueError(
            f"{folder} has preprocessing {buffer.spec.preprocessing['kind']!r}, not {config.data.preprocessing!r}; "
            f"use --set data.preprocessing={buffer.spec.preprocessing['kind']} or another --buffer"
        )
    if buffer.kept is not None and config.match == "trajectories" and not config.convexify:
        raise ValueError(f"{folder} is convexified (MCT): use --method mct, or a full buffer")
    if (held := buffer.spec.recipe.get("validation")) != config.data.validation:
        raise ValueError(
            f"{folder} held out data.validation={held} of the training images, not {config.data.validation}; "
            f"use --set data.validation={held} or another --buffer"
        )


def open_buffer(
    folder: Path, config: DistillConfig, device: torch.device, most: int | None = None, *, verified: bool = False
) -> tuple[ArrowBuffer, Workspace]:
    """Open a buffer and the workspace it belongs to; its preprocessing is the experts' own.

    Every byte is read once and compared with its checksum, so that no run starts on damaged experts.

    Args:
        folder: The buffer's.
        config: The run that uses it.
        device: Where the run computes.
        most: Use the first so many experts; None uses all.
        verified: The bytes have been compared already, as for all trials of a search; they are not read again.

    Raises:
        ValueError: The buffer is damaged, of another network, data set or preprocessing, or convexified
            where the settings want the experts' own steps.
    """
    buffer = ArrowBuffer(folder, most)
    check_fit(buffer, config)
    transform = load_transform(folder)
    work = open_workspace(config.data, config.experts.network, device, transform)
    buffer.expect(fingerprint=work.dataset.fingerprint, preprocessing_hash=transform.hash)
    check_mirroring(folder, buffer.spec.recipe, config.data)
    check_network(config, FlatModel(work.build), buffer)
    for problem in () if verified else verify(folder):
        raise ValueError(f"{folder / problem.file} is damaged: {problem.what}")
    return buffer, work


def without_last(buffer: ArrowBuffer) -> ArrowBuffer:
    """The same buffer without its last expert, which then can be looked at without taking part.

    Raises:
        ValueError: If there is but one expert.
    """
    if len(buffer.experts) < 2:
        raise ValueError(f"{buffer.folder} has 1 expert, and one takes no part: train at least 2 (--num-experts)")
    return ArrowBuffer(buffer.folder, len(buffer.experts) - 1)


def settle(config: DistillConfig, buffer: ArrowBuffer | None, folder: Path) -> DistillConfig:
    """The configuration as it really runs: the buffer's own recipe, if it has one, and a number of CPU threads.

    A resumed run keeps the threads it had; they are part of it, since sums depend on them.
    """
    before = read_config(folder)
    usual = len(os.sched_getaffinity(0)) if config.rollouts == 1 else 1  # rollouts are spread over the cores
    threads = config.threads or (before.threads if before else None) or usual
    if buffer is None:
        return build(DistillConfig, config.model_dump(), {"threads": threads})
    recipe = {key: value for key, value in buffer.spec.recipe.items() if key in type(config.experts).model_fields}
    experts = {
        "network": buffer.spec.network,
        "num_experts": len(buffer.experts),
        "kept": None,
        "storage": "float32",
    } | recipe
    return build(DistillConfig, config.model_dump(), {"threads": threads, "experts": experts})
