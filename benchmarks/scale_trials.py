"""The throughput of a search and the memory of its driver, by the number of trials, whose objective does nothing.

    python benchmarks/scale_trials.py --write

runs searches of 100, 300 and 1000 trials through `raydd.remote.tune.run_trials` on a local Ray: the journal, the
proposals, Ray Tune and the storage are those of `raydd tune`, and a trial only reports three numbers. It tells the
driver's CPU seconds in proposals, in reports and in ends, all of them our journal, over all and in the first and the
last tenth of the trials, which shows what grows with their number. The rows named ``journal`` do the same without Ray.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune

import raydd.remote.tune as search
from raydd.io.files import write_atomic
from raydd.remote.demand import Demand
from raydd.remote.session import session
from raydd.remote.trial_storage import SearchStorage
from raydd.remote.trials import Strategy
from raydd.tuning.space_files import make_space
from raydd.tuning.study import Study
from raydd.tuning.trial import Report, SearchContext
from raydd.tuning.trial_scheduler import TrialScheduler

REPORTS = 3


def objective(config: Mapping[str, Any], context: SearchContext, demand: Demand, storage: SearchStorage) -> None:
    """Report numbers that depend on the settings alone."""
    best = 1 / (1 + abs(config["values"]["lr.images"] - 10))
    for index in range(1, REPORTS + 1):
        accuracy = best * index / REPORTS
        tune.report(Report(index, index, accuracy, accuracy, 0.1, 0.01, 1.0)._asdict())


class Clock:
    """The CPU seconds that calls of a function take, by how many trials there were."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose calls are timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                self.calls.append(time.thread_time() - start)

        return timed

    def row(self) -> dict[str, float]:
        """Return the seconds of all calls, and the milliseconds of one in the first and the last tenth."""
        tenth = max(1, len(self.calls) // 10)
        first, last = (1000 * sum(part) / tenth for part in (self.calls[:tenth], self.calls[-tenth:]))
        return {"seconds": round(sum(self.calls), 2), "first_ms": round(first, 2), "last_ms": round(last, 2)}


def tree_of(count: int, algorithm: str, scheduler: str) -> dict[str, Any]:
    """Return a space of one setting."""
    return {
        "method": "dm",
        "set": {"steps": REPORTS, "experts": {"network": "MLP"}},
        "domains": {"lr.images": {"log_uniform": [0.1, 100]}},
        "search": {"algorithm": algorithm, "first": "none"},
        "scheduler": {"name": scheduler},
        "budget": {"samples": count, "reports": REPORTS},
    }


def timed_study(tree: dict[str, Any], folder: Path) -> tuple[Study, dict[str, Clock]]:
    """Return a new study, and the clocks around its methods."""
    study, clocks = Study(make_space(tree), folder / "study.journal"), {}
    for name in ("propose", "report", "complete"):
        clocks[name] = Clock()
        setattr(study, name, clocks[name].around(getattr(study, name)))
    return study, clocks


def measure_journal(count: int, algorithm: str, scheduler: str) -> dict[str, Any]:
    """Record the trials of a search in this process, without Ray, and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        study, clocks = timed_study(tree_of(count, algorithm, scheduler), Path(folder))
        trials, before, start = TrialScheduler(study, count, lambda progress: None), memory_mb(), time.perf_counter()
        while (proposal := trials.next()) is not None:
            best = 1 / (1 + abs(proposal.values["lr.images"] - 10))
            for index in range(1, REPORTS + 1):
                accuracy = best * index / REPORTS
                report = Report(index, index, accuracy, accuracy, 0.1, 0.01, 1.0)._asdict()
                if trials.report(proposal.number, report):
                    break
            trials.complete(proposal.number, report)
        seconds = time.perf_counter() - start
        journal = (Path(folder) / "study.journal").stat().st_size
    return figures("journal", count, algorithm, scheduler, seconds, before, journal, clocks)


def figures(*values: Any) -> dict[str, Any]:
    """Return a row of the table."""
    part, count, algorithm, scheduler, seconds, before, journal, clocks = values
    return {
        "part": part,
        "trials": count,
        "algorithm": algorithm,
        "scheduler": scheduler,
        "seconds": round(seconds, 1),
        "trials_per_second": round(count / seconds, 2),
        "driver_mb": round(memory_mb()),
        "driver_mb_before": round(before),
        "journal_mb": round(journal / 1e6, 2),
        **{name: clock.row() for name, clock in clocks.items()},
        "driver_cpu_seconds": round(time.process_time(), 1),
    }


def measure(count: int, algorithm: str, scheduler: str) -> dict[str, Any]:
    """Run a search in this process and return its figures."""
    ours = search.independent

    def trivial(trials: TrialScheduler, context: SearchContext) -> Strategy:
        return ours(trials, context)._replace(trainable=objective)

    with tempfile.TemporaryDirectory() as folder, session():
        study, clocks = timed_study(tree_of(count, algorithm, scheduler), Path(folder))
        trials = TrialScheduler(study, count, lambda progress: None)
        context = SearchContext(study.space, None, Path(folder), "cpu")
        search.independent, before = trivial, memory_mb()
        start = time.perf_counter()
        try:
            search.run_trials(context, trials, search.Limits(), [])
        finally:
            search.independent = ours
        seconds = time.perf_counter() - start
        assert sum(record.state in {"complete", "pruned"} for record in study.records()) == count
        journal = (Path(folder) / "study.journal").stat().st_size
    return figures("search", count, algorithm, scheduler, seconds, before, journal, clocks)


def memory_mb() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


PARTS = {"journal": measure_journal, "search": measure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--algorithms", nargs="+", choices=["random", "tpe"], default=["random", "tpe"])
    parser.add_argument("--scheduler", choices=["none", "asha"], default="none")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write benchmarks/scale_trials.json")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(PARTS[args.parts[0]](args.counts[0], args.algorithms[0], args.scheduler)))
        return
    rows = []
    for part, algorithm, count in itertools.product(args.parts, args.algorithms, args.counts):
        # A process each, since memory is the most that one has had.
        words = [sys.executable, __file__, "--one", "--counts", str(count), "--parts", part, "--algorithms", algorithm]
        words += ["--scheduler", args.scheduler]
        output = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append(json.loads(next(line for line in output.splitlines() if line.startswith("{"))))
        print(json.dumps(rows[-1]), flush=True)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "ray": ray.__version__}
    if args.write:
        document = {"rows": rows, "machine": machine | {"load": round(os.getloadavg()[2], 1)}}
        write_atomic(Path(__file__).with_suffix(".json"), json.dumps(document, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
