"""Make a set from the checkpoint of an unfinished run."""

from functools import partial
from pathlib import Path

import torch

from raydd.buffer.expert_file import expert_path
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.run_progress import checkpoint_step, is_unfinished
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, resolve_device, set_precision
from raydd.figures.synset_picture import grid, save_png
from raydd.io.console import Screen
from raydd.run.resolve import BufferRequest, resolve
from raydd.run.run import Run
from raydd.run.run_folder import read_config
from raydd.run.storage import open_storage
from raydd.training.expert_worker import default_buffer


def finish(
    folder: Path | str, *, buffer: Path | str | None = None, device: str = "auto", screen: Screen | None = None
) -> tuple[SyntheticSet, int]:
    """Write the set of a run's checkpoint, and return it with its outer step; a finished run's set stays as it is.

    The provenance has ``unfinished``, such as ``step 40 of 150``; ``resume`` still continues the run, to the same bits.
    ``folder`` and ``buffer`` may be a URI; a ``buffer`` of None takes the cache's.
    """
    screen = screen or Screen()
    with open_storage(folder, "raydd finish", screen.note) as storage:
        folder = storage.folder
        if (config := read_config(folder)) is None:
            raise ValueError(f"{folder} holds no run; name a folder that raydd distill wrote")
        if (step := checkpoint_step(folder)) is None:
            raise ValueError(
                f"{folder} has no checkpoint yet, at step 0 of {config.steps}: go on with its command and --resume"
            )
        path = folder / "synset.arrow"
        if step == config.steps and path.exists() and not is_unfinished(whole := SyntheticSet.load(path)):
            return whole, step
        request = BufferRequest(partial(_cached_buffer, folder), buffer, config.experts.num_experts)
        context = resolve(config, folder, request, resolve_device(device), resume=True, note=screen.note)
        torch.set_num_threads(context.config.threads or 1)
        set_precision(context.config.precision)
        Run(context).finish()
        synset = SyntheticSet.load(path)
        save_png(grid(synset), folder / "synset.png")
        storage.save_last()
    return synset, step


def _cached_buffer(folder: Path, config: DistillConfig, work: Workspace) -> Path:
    """The cache's buffer, whose experts a run has used."""
    buffer = default_buffer(ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed))
    if not all(expert_path(buffer, index).exists() for index in range(config.experts.num_experts)):
        raise ValueError(f"{folder}: its experts are not in the cache; name its --buffer")
    return buffer
