"""The best trial of a search, kept: its settings as a preset, its set and the set's picture."""

import os
from pathlib import Path

from raydd.config.parsing import dump
from raydd.data.synset import SyntheticSet
from raydd.figures.synset_picture import grid, save_png
from raydd.io.files import write_atomic
from raydd.tuning.results import Record, accuracy_of
from raydd.tuning.trial import Task, shares, trial_folder


def kept_set(task: Task, number: int) -> SyntheticSet:
    """A trial's result; of one that was stopped, its best set so far."""
    folder = trial_folder(task.folder, number)
    whole = folder / "synset.arrow"
    return SyntheticSet.load(whole if whole.exists() else folder / "best.arrow")


def keep_best(task: Task, best: Record, changes: int) -> dict[str, Path]:
    """The best trial's settings as a preset, and its set; where they changed on the way, the preset says so."""
    folder, synset = task.folder, kept_set(task, best.number)
    preset = f"search {task.space.name}, trial {best.number}"
    config = task.space.config(best.values).model_copy(update={"preset": preset})
    named = task.space.buffer is not None and shares(task, config)
    buffer = f" --buffer {task.space.buffer}" if named else ""
    remake = f"raydd distill --preset {os.path.relpath(folder / 'best.yaml')}{buffer} --out runs/best"
    if changes:
        remake = f"Its settings changed {changes} times, and these are the last: they alone do not remake the set."
    elif named and "experts.num_experts" in best.values:
        remake = (
            f"It had the first {config.experts.num_experts} experts of {task.space.buffer}; raydd distill takes all."
        )
    head = f"# {preset}: accuracy {accuracy_of(best):.4f} on validation images, {best.state} at step {best.step}.\n"
    head += f"# Its set is best/synset.arrow.\n# {remake}\n"
    write_atomic(folder / "best.yaml", (head + dump(config)).encode())
    synset.save(folder / "best" / "synset.arrow")
    save_png(grid(synset), folder / "best" / "synset.png")
    return {name: folder / name for name in ("best.yaml", "best/synset.arrow", "best/synset.png")}
