"""Logs of distillation runs: matching losses, soft labels and memory."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raydd.analysis.document import Document
from raydd.distillation.checkpoint import AGAIN, LOGS
from raydd.io.document import read_log
from raydd.io.paths import short_names

MEMORY = ("resident_mb", "device_mb")
REMEDY = {"probe.jsonl": "distill it with --set probe_every=10", "memory.jsonl": "distill it again with this raydd"}


def matching(run: Path) -> Document:
    """Return the matching loss of a run at every start epoch, over its outer steps.

    Reference:
        Guo et al., arXiv 2310.05773 (DATM), Fig. 10.
    """
    records = _records(run, "probe.jsonl", lambda record: [reading(value) for value in record.get("losses", ())])
    widths = sorted({len(losses) for losses in records.values()})
    if len(widths) != 1:
        raise ValueError(f"{run / 'probe.jsonl'} has {widths} start epochs; distill the run again")
    return {
        "analysis": "matching",
        "name": short_names([run])[0],
        "folder": str(run),
        "start_epochs": list(range(widths[0])),
        "steps": list(records),
        "losses": list(records.values()),
    }


def labels(runs: Sequence[Path]) -> Document:
    """Return the spread of each run's soft labels over its outer steps.

    Reference:
        Guo et al., arXiv 2310.05773 (DATM), Fig. 6: the standard deviation over the classes of
        softmax(labels), mean over the images.
    """
    numbers = []
    for run, name in zip(runs, short_names(runs), strict=True):
        records = _records(run, "probe.jsonl", lambda record: reading(record.get("label_std")))
        if all(value is None for value in records.values()):
            raise ValueError(f"{run} has hard labels, which have no spread; give runs whose method has soft ones")
        numbers.append({"name": name, "folder": str(run), "steps": list(records), "label_std": list(records.values())})
    return {"analysis": "labels", "runs": numbers}


def memory(runs: Sequence[Path]) -> Document:
    """Return the memory of each run's process and its peak device memory, by outer step, in MB.

    Reference:
        Cao et al. (DPD), Fig. 2.
    """
    numbers = []
    for run, name in zip(runs, short_names(runs), strict=True):
        records = _records(run, "memory.jsonl", lambda record: [reading(record.get(key)) for key in MEMORY])
        columns = dict(zip(MEMORY, map(list, zip(*records.values(), strict=True)), strict=True))
        numbers.append({"name": name, "folder": str(run), "steps": list(records)} | columns)
    return {"analysis": "memory", "runs": numbers}


def _records(run: Path, name: str, read: Callable[[Document], Any]) -> dict[int, Any]:
    """Return ``read`` of each record in a run's file, by outer step; the last record of a repeated step counts."""
    path = run / name
    if not path.exists():
        problem = f"has no {name}" if run.is_dir() else "does not exist"
        raise ValueError(f"{run} {problem}; give a run folder of `raydd distill`, or {REMEDY[name]}")
    records = read_log(path, LOGS[name], AGAIN)
    by_step = {record["step"]: read(record) for record in records}
    if not by_step:
        raise ValueError(f"{path} is empty; let the run go on to its first measure")
    return dict(sorted(by_step.items()))


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
