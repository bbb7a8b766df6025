"""Save the best trial of a search: its settings as a preset, its synthetic set and a picture of the set."""

import os
from pathlib import Path

from raydd.config.parsing import dump
from raydd.data.synset import SyntheticSet
from raydd.figures.synset_picture import grid, save_png
from raydd.io.files import write_atomic
from raydd.tuning.results import Record, accuracy_of
from raydd.tuning.trial import SearchContext, shares_experts, trial_folder


def trial_synset(context: SearchContext, number: int) -> SyntheticSet:
    """Load a trial's result, or its best set so far where it was stopped."""
    folder = trial_folder(context.folder, number)
    whole = folder / "synset.arrow"
    return SyntheticSet.load(whole if whole.exists() else folder / "best.arrow")


def save_best(context: SearchContext, best: Record, changes: int) -> dict[str, Path]:
    """Write the best trial's settings as a preset, and its set."""
    folder, synset = context.folder, trial_synset(context, best.number)
    preset = f"search {context.space.name}, trial {best.number}"
    config = context.space.config(best.values).model_copy(update={"preset": preset})
    named = context.space.buffer is not None and shares_experts(context, config)
    buffer = f" --buffer {context.space.buffer}" if named else ""
    command = f"raydd distill --preset {os.path.relpath(folder / 'best.yaml')}{buffer} --out runs/best"
    if changes:
        command = f"Its settings changed {changes} times; these are the last and do not reproduce the set alone."
    elif named and "experts.num_experts" in best.values:
        command = (
            f"It used the first {config.experts.num_experts} experts of {context.space.buffer}; raydd distill uses all."
        )
    head = f"# {preset}: accuracy {accuracy_of(best):.4f} on validation images, {best.state} at step {best.step}.\n"
    head += f"# Its set is best/synset.arrow.\n# {command}\n"
    write_atomic(folder / "best.yaml", (head + dump(config)).encode())
    synset.save(folder / "best" / "synset.arrow")
    save_png(grid(synset), folder / "best" / "synset.png")
    return {name: folder / name for name in ("best.yaml", "best/synset.arrow", "best/synset.png")}
