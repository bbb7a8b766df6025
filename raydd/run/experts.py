"""The experts of a run: a buffer is opened and compared with the settings."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.verification import check_whole
from raydd.config.parsing import build
from raydd.config.schema import DistillConfig
from raydd.data.mirroring import check_mirroring
from raydd.data.preprocessing import load_transform
from raydd.data.workspace import Workspace, open_workspace
from raydd.distillation.setup import check_statistics
from raydd.numerics.flat import FlatModel


def find_experts(folder: Path, config: DistillConfig, limit: int | None = None) -> ArrowBuffer:
    """Open a buffer, and refuse one that is not what the settings ask for, before any image is decoded."""
    buffer = ArrowBuffer(folder, limit)
    buffer.expect(network=config.experts.network)
    if buffer.spec.preprocessing.get("kind") != config.data.preprocessing:
        raise ValueError(
            f"{folder} has preprocessing {buffer.spec.preprocessing['kind']!r}, not {config.data.preprocessing!r}; "
            f"use --set data.preprocessing={buffer.spec.preprocessing['kind']} or another --buffer"
        )
    if buffer.kept is not None and config.match == "trajectories" and not config.convexify:
        raise ValueError(f"{folder} is convexified (MCT): use --method mct, or a full buffer")
    if (share := buffer.spec.recipe.get("validation")) != config.data.validation:
        raise ValueError(
            f"{folder} held out data.validation={share} of the training images, not {config.data.validation}; "
            f"use --set data.validation={share} or another --buffer"
        )
    return buffer


def bind_experts(buffer: ArrowBuffer, config: DistillConfig, work: Workspace, *, verified: bool = False) -> Workspace:
    """Return the workspace with the experts' own preprocessing; see `open_buffer`."""
    folder, transform = buffer.folder, load_transform(buffer.folder)
    buffer.expect(fingerprint=work.dataset.fingerprint, preprocessing_hash=transform.hash)
    check_mirroring(folder, buffer.spec.recipe, config.data)
    check_statistics(config, FlatModel(work.build), buffer)
    if not verified:
        check_whole(folder)
    return replace(work, transform=transform)


def plain_workspace(config: DistillConfig, device: torch.device) -> Workspace:
    """Open the data set and the network without a fitted preprocessing, which neither checks nor experts need."""
    data = config.data.model_copy(update={"preprocessing": "raw01"})
    return open_workspace(data, config.experts.network, device)


def open_buffer(
    folder: Path, config: DistillConfig, device: torch.device, limit: int | None = None, *, verified: bool = False
) -> tuple[ArrowBuffer, Workspace]:
    """Open a buffer, and the workspace with its data set and preprocessing.

    Every byte is compared with its checksum, once a machine, so that no run starts on damaged experts.
    """
    buffer = find_experts(folder, config, limit)
    return buffer, bind_experts(buffer, config, plain_workspace(config, device), verified=verified)


def without_last(buffer: ArrowBuffer) -> ArrowBuffer:
    """Return the buffer without its last expert, which is held out to be measured."""
    if len(buffer.experts) < 2:
        raise ValueError(f"{buffer.folder} has 1 expert, and one takes no part: train at least 2 (--num-experts)")
    return ArrowBuffer(buffer.folder, len(buffer.experts) - 1)


def settle(config: DistillConfig, buffer: ArrowBuffer | None, before: DistillConfig | None = None) -> DistillConfig:
    """Return the settings as they really run: with the buffer's own recipe, if any, and a number of CPU threads.

    A resumed run keeps the threads it had (``before``); they are part of it, since sums depend on them.
    """
    usual = len(os.sched_getaffinity(0)) if config.rollouts == config.shards == 1 else 1  # parts are spread over cores
    threads = config.threads or (before.threads if before else usual)
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
