"""A list of trainings on one and on two workers, one thread each, and what the start of the group costs.

    python benchmarks/evaluate.py --write

The same list of digits trainings is done by one and by two workers in turn, of which the first changes from repeat to
repeat. Nothing is kept or known: every run does every training. A run is timed from the call to its return (call) and
from the start of its first training to the end of its last (list); the time before that start is the group's (start).
It is measured with a list of two trainings too: a start that is paid once does not grow with the list.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from raydd.config.placement import Where
from raydd.config.schema import DataConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.failures import separate
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.evaluation.protocols import PROTOCOLS
from raydd.io.files import write_atomic
from raydd.io.provenance import commit
from raydd.numerics.rng import generator
from raydd.remote import train_matrix as evaluate
from raydd.remote.session import session
from raydd.selection.class_sampler import Request
from raydd.selection.starting_images import INITIAL

LEAST = 1.7
POLL_SECONDS = 0.02  # how late the end of a training is seen


@dataclass(frozen=True)
class Timed:
    """Seconds of a run: of the call, until its first training began, and of its list."""

    call: float
    start: float
    list: float
    values: dict[Job, float]


def make_matrix(args: argparse.Namespace) -> Matrix:
    """Sets of real digits on some networks."""
    work = open_workspace(DataConfig(), None, torch.device("cpu"))
    entries = []
    for number in range(args.sets):
        images, labels = INITIAL["real"](Request(work.dataset, work.transform, args.ipc, generator(args.seed, number)))
        synset = SyntheticSet(images, labels, torch.tensor(0.01), work.transform, "digits", work.dataset.classes)
        entries.append(ScoreRow(f"set {number}", "random", (synset,)))
    networks, protocol = tuple(args.nets.split(",")), PROTOCOLS["mtt"].changed(args.epochs)
    return Matrix(tuple(entries), networks, range(args.seeds), protocol, DataConfig(), "cpu")


def timed(matrix: Matrix, workers: int) -> Timed:
    """One run; a training began as many seconds before it was seen as it took, so the earliest such time is the first.

    Raises:
        RuntimeError: Not so many workers were started.
    """
    began, ended, notes = [], [], []

    def keep(job: Job, outcome: Outcome) -> None:
        ended.append(time.monotonic())
        began.append(ended[-1] - outcome.seconds)

    start = time.monotonic()
    where = Where(num_workers=workers)
    found = evaluate.train_matrix(matrix, where, lambda step: notes.append(step.note), None, keep)
    end = time.monotonic()
    if any(notes):
        raise RuntimeError(f"no fair comparison: {next(filter(None, notes))}")
    values = {job: outcome.value for job, outcome in separate(matrix, found)[0].items()}
    return Timed(end - start, min(began) - start, max(ended) - min(began), values)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and the values themselves."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}


def summary(runs: dict[int, list[Timed]], short: list[Timed]) -> dict[str, Any]:
    """What the runs came to; a ratio is of two runs of one repeat."""
    both = list(zip(runs[1], runs[2], strict=True))
    ratios = {"list": [one.list / two.list for one, two in both], "call": [one.call / two.call for one, two in both]}
    values = [run.values for found in runs.values() for run in found]
    return {
        "seconds": {
            str(workers): {name: spread([getattr(run, name) for run in found]) for name in ("call", "list", "start")}
            for workers, found in runs.items()
        },
        "two_over_one": {name: spread(found) for name, found in ratios.items()},
        "seconds_to_start_two_trainings": spread([run.start for run in short]),
        "same_accuracies": all(found == values[0] for found in values),
        "accepted": statistics.fmean(ratios["list"]) >= LEAST,
    }


def measure(matrix: Matrix, args: argparse.Namespace) -> dict[str, Any]:
    """All runs, on one Ray."""
    little = replace(matrix, rows=matrix.rows[:1], networks=matrix.networks[:1], seeds=range(2))
    runs: dict[int, list[Timed]] = {1: [], 2: []}
    short = []
    start = time.monotonic()
    with session():
        seconds_of_ray = time.monotonic() - start
        timed(little, 2)  # not counted: the first group finds nothing in the system's page cache
        for repeat in range(args.repeats):
            for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
                runs[workers].append(timed(matrix, workers))
            short.append(timed(little, 2))
    return {"trainings": len(matrix.jobs()), "seconds_to_start_ray": seconds_of_ray} | summary(runs, short)


def machine() -> str:
    gigabytes = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return f"{os.cpu_count()} cores, {gigabytes} GB, CPU"


def table(result: dict[str, Any]) -> Table:
    """Seconds a run, and how many times faster two workers are."""
    found = Table(title=f"{result['trainings']} trainings, seconds over {result['repeats']} repeats")
    for column in ("workers", "list", "group's start", "call"):
        found.add_column(column, justify="right")

    def words(number: dict[str, Any], digits: int = 1) -> str:
        return f"{number['mean']:.{digits}f} ± {number['std']:.{digits}f}"

    for workers, seconds in result["seconds"].items():
        found.add_row(workers, *(words(seconds[name]) for name in ("list", "start", "call")))
    ratios = result["two_over_one"]
    found.add_row("1 / 2", words(ratios["list"], 2), "", words(ratios["call"], 2))
    found.add_row("2, two trainings", "", words(result["seconds_to_start_two_trainings"]), "")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="ConvNetW32,LeNet,MLP")
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/evaluate.json")
    args = parser.parse_args()
    evaluate.POLL_SECONDS = POLL_SECONDS
    result = {
        "command": " ".join(["python benchmarks/evaluate.py", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("raydd", "ray", "torch")},
        "seed": args.seed,
        "repeats": args.repeats,
    } | measure(make_matrix(args), args)
    print(json.dumps(result, indent=1))
    Console(stderr=True).print(table(result))
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
