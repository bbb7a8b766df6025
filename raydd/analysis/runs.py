"""Logs of distillation runs: matching losses, soft labels and memory."""

import math
from collections.abc import Callable, Iterator, Sequence
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
