"""What a run leaves: its set, with all that it says of itself, in the run folder."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from raydd.config.schema import DistillConfig
from raydd.data.progress import UNFINISHED
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace
from raydd.io.provenance import commit

History = tuple[dict[str, Any], ...]


def described(
    synset: SyntheticSet, config: DistillConfig, work: Workspace, history: History, chosen: str
) -> SyntheticSet:
    """A set with its recipe, where it comes from, and the scores up to it; on the CPU.

    Args:
        synset: The set.
        config: The run.
        work: Its data set.
        history: Scores on the validation split, oldest first.
        chosen: How its outer step was chosen.
    """
    provenance = {
        "raydd": version("raydd"),
        "torch": torch.__version__,
        "commit": commit(),
        "fingerprint": work.dataset.fingerprint,
        "network": config.experts.network,
        "chosen": chosen,
    }
    return replace(synset.to("cpu"), recipe=config.model_dump(mode="json"), provenance=provenance, history=history)


def save_result(folder: Path, last: SyntheticSet, step: int, steps: int) -> None:
    """Write a run's ``synset.arrow``: the best set on the validation split, where there are scores, else the last.

    Args:
        folder: The run folder; its ``best.arrow`` is the best.
        last: The set of the outer step that the run has come to, with the scores up to it.
        step: That step.
        steps: Outer steps of the whole run; of fewer the set says so, see `raydd.data.progress.UNFINISHED`.
    """
    chosen, best = last, folder / "best.arrow"
    if last.history and best.exists():
        last.save(folder / "last.arrow")
        chosen = SyntheticSet.load(best)
        history = max(last.history, chosen.history, key=len)  # a killed run's best may be of a score after a checkpoint
        chosen = replace(chosen, history=history)
    if step < steps:
        chosen = replace(chosen, provenance=dict(chosen.provenance) | {UNFINISHED: f"step {step} of {steps}"})
    chosen.save(folder / "synset.arrow")
