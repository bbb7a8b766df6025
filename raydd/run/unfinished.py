"""A set from the checkpoint of a run that has not come to its end."""

from pathlib import Path

import torch

from raydd.buffer.expert_file import expert_path
from raydd.buffer.mirror import local_folder
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.progress import checkpoint_step, is_unfinished
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace, resolve_device
from raydd.figures.synset_picture import grid, save_png
from raydd.io.console import Screen
from raydd.io.lock import alone
from raydd.run.experts import open_buffer
from raydd.run.families import needs_experts
from raydd.run.resolve import check, read_config
from raydd.run.run import Run
from raydd.training.expert_worker import default_buffer


def finish(
    folder: Path | str, *, buffer: Path | str | None = None, device: str = "auto", screen: Screen | None = None
) -> tuple[SyntheticSet, int]:
    """Make a set of a run's checkpoint; `raydd.distill` with ``resume`` still goes on with it, to the same bits.

    Args:
        folder: The run folder; ``synset.arrow`` and ``synset.png`` are written there.
        buffer: The experts, a folder or a URI, where the run was told one; None takes the cache's.
        device: auto, cpu or cuda.
        screen: Where progress is told.

    Returns:
        The set, whose provenance has ``unfinished``, such as ``step 40 of 150``, and the outer step of the checkpoint.
        A run that has come to its end has its set already, which stays as it is.

    Raises:
        ValueError: There is no run or no checkpoint, another process works on it, or the experts are not there.
    """
    screen, folder = screen or Screen(), Path(folder)
    if (config := read_config(folder)) is None:
        raise ValueError(f"{folder} holds no run; name a folder that raydd distill wrote")
    with alone(folder, "raydd finish", screen.note):
        if (step := checkpoint_step(folder)) is None:
            raise ValueError(
                f"{folder} has no checkpoint yet, at step 0 of {config.steps}: go on with its command and --resume"
            )
        path = folder / "synset.arrow"
        if step == config.steps and path.exists() and not is_unfinished(whole := SyntheticSet.load(path)):
            return whole, step
        _open(folder, config, buffer, device, screen).finish()
        synset = SyntheticSet.load(path)
        save_png(grid(synset), folder / "synset.png")
    return synset, step


def _open(folder: Path, config: DistillConfig, buffer: Path | str | None, device: str, screen: Screen) -> Run:
    """The run at its checkpoint."""
    target = resolve_device(device)
    if buffer is None and needs_experts(config):
        buffer = default_buffer(ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed))
        if not all(expert_path(buffer, index).exists() for index in range(config.experts.num_experts)):
            raise ValueError(f"{folder}: its experts are not in the cache; name its --buffer")
    if buffer is None:
        experts, work = None, open_workspace(config.data, config.experts.network, target)
    else:
        experts, work = open_buffer(local_folder(buffer, screen.note), config, target, config.experts.num_experts)
    check(config, work)
    torch.set_num_threads(config.threads or 1)
    return Run(config, folder, experts, work, resume=True)
