"""Logs of distillation runs: matching losses, soft labels, memory, accuracy by step, and what a run takes."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raydd.analysis.document import Document
from raydd.data.synset import SyntheticSet
from raydd.distillation.checkpoint import AGAIN, LOGS
from raydd.io.document import read_log
from raydd.io.paths import short_names

MEMORY = ("resident_mb", "device_mb")
NEAR = 0.02
"""The part of all test images by which an accuracy near the best may be below it."""
REMEDY = {"probe.jsonl": "distill it with --set probe_every=10", "memory.jsonl": "distill it again with this raydd"}


def matching(run: Path) -> Document:
    """Return the matching loss of a run at every start epoch, over its outer steps.

    Reference:
        Guo et al., arXiv 2310.05773 (DATM), Fig. 10.
    """
    ((top, losses),) = _records(
        [run], "probe.jsonl", lambda record: [reading(value) for value in record.get("losses", ())]
    )
    widths = sorted({len(values) for values in losses})
    if len(widths) != 1:
        raise ValueError(f"{run / 'probe.jsonl'} has {widths} start epochs; distill the run again")
    return {"analysis": "matching"} | top | {"start_epochs": list(range(widths[0])), "losses": losses}


def labels(runs: Sequence[Path]) -> Document:
    """Return the spread of each run's soft labels over its outer steps.

    Reference:
        Guo et al., arXiv 2310.05773 (DATM), Fig. 6: the standard deviation over the classes of
        softmax(labels), mean over the images.
    """
    numbers = []
    for top, values in _records(runs, "probe.jsonl", lambda record: reading(record.get("label_std"))):
        if all(value is None for value in values):
            raise ValueError(
                f"{top['folder']} has hard labels, which have no spread; give runs whose method has soft ones"
            )
        numbers.append(top | {"label_std": values})
    return {"analysis": "labels", "runs": numbers}


def memory(runs: Sequence[Path]) -> Document:
    """Return the memory of each run's process and its peak device memory, by outer step, in MB.

    Reference:
        Cao et al. (DPD), Fig. 2.
    """
    records = _records(runs, "memory.jsonl", lambda record: [reading(record.get(key)) for key in MEMORY])
    numbers = [top | dict(zip(MEMORY, map(list, zip(*values, strict=True)), strict=True)) for top, values in records]
    return {"analysis": "memory", "runs": numbers}


def convergence(runs: Sequence[Path]) -> Document:
    """Return the accuracy of each run's sets over its outer steps, and how soon it was near its best.

    ``near_step`` and ``near_seconds`` are those of the first set within `NEAR` of the run's best.

    Reference:
        Shen et al., arXiv 2310.10541 (AST), Fig. 6; Guo et al., arXiv 2310.05773 (DATM), Fig. 3.
    """
    numbers = []
    for run, title in zip(runs, short_names(runs), strict=True):
        history = [score for score in _synset(run).history if reading(score.get("mean")) is not None]
        if not history:
            raise ValueError(f"{run} has no scores; distill it with --set evaluate_every=100")
        steps, accuracy = [score["step"] for score in history], [score["mean"] for score in history]
        best = max(accuracy)
        near = next(step for step, value in zip(steps, accuracy, strict=True) if value >= best - NEAR)
        top = {"name": title, "folder": str(run), "steps": steps, "accuracy": accuracy, "best": best}
        numbers.append(top | {"last": accuracy[-1], "near_step": near, "near_seconds": _seconds(run).get(near)})
    split = "validation"
    return {"analysis": "convergence", "split": split, "near": NEAR, "runs": numbers}


def cost(runs: Sequence[Path]) -> Document:
    """Return what each run took: seconds of an outer step and of all, peak memory, and the accuracy that it ends at.

    The memory is that of the tensors on a GPU, or else of the process. The accuracy is None where no set was scored.

    Reference:
        Shen et al., arXiv 2310.10541 (AST), Table VI; Ran et al., arXiv 2512.02469 (TGDD), Fig. 1.
    """
    numbers = []
    for top, values in _records(runs, "memory.jsonl", lambda record: [reading(record.get(key)) for key in MEMORY]):
        run, seconds = Path(top["folder"]), _seconds(Path(top["folder"]))
        if not seconds:
            raise ValueError(f"{run / 'memory.jsonl'} has no seconds; distill it again with this raydd")
        synset, step = _synset(run), max(seconds)
        peaks = [
            max((value for value in column if value is not None), default=None) for column in zip(*values, strict=True)
        ]
        scores = [reading(score.get("mean")) for score in synset.history]
        numbers.append(
            {
                "name": top["name"],
                "folder": top["folder"],
                "method": str(synset.recipe.get("method", "")),
                "ipc": synset.ipc,
                "steps": step,
                "seconds": seconds[step],
                "step_seconds": seconds[step] / step if step else None,
                "memory_mb": peaks[1] if peaks[1] is not None else peaks[0],
                "on_device": peaks[1] is not None,
                "accuracy": scores[-1] if scores else None,
            }
        )
    return {"analysis": "cost", "runs": numbers}


def _synset(run: Path) -> SyntheticSet:
    path = run / "synset.arrow"
    if not path.exists():
        raise ValueError(f"{run} has no synset.arrow; give a run folder of `raydd distill` that has ended")
    return SyntheticSet.load(path)


def _seconds(run: Path) -> dict[int, float]:
    """Return the seconds that a run had taken, by outer step; the last record of a step counts."""
    path = run / "memory.jsonl"
    records = read_log(path, LOGS["memory.jsonl"], AGAIN) if path.exists() else []
    read = {record["step"]: reading(record.get("seconds")) for record in records}
    return {step: seconds for step, seconds in read.items() if seconds is not None}


def _records(runs: Sequence[Path], name: str, read: Callable[[Document], Any]) -> Iterator[tuple[Document, list[Any]]]:
    """Yield a run's name, folder and steps, and ``read`` of its file's record of each; the last of a step counts."""
    for run, title in zip(runs, short_names(runs), strict=True):
        path = run / name
        if not path.exists():
            problem = f"has no {name}" if run.is_dir() else "does not exist"
            raise ValueError(f"{run} {problem}; give a run folder of `raydd distill`, or {REMEDY[name]}")
        by_step = {record["step"]: read(record) for record in read_log(path, LOGS[name], AGAIN)}
        if not by_step:
            raise ValueError(f"{path} is empty; let the run go on to its first measure")
        steps = sorted(by_step)
        yield {"name": title, "folder": str(run), "steps": steps}, [by_step[step] for step in steps]


def reading(value: Any) -> float | None:
    """Return a number of a record; None where it was not measured, or is not finite.

    >>> reading("nan"), reading(None), reading(0.5)
    (None, None, 0.5)
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
