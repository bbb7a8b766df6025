"""The throughput of a search and the memory of its driver, by the number of trials, whose objective does nothing.

    python benchmarks/scale_trials.py --write

runs searches of 100, 300 and 1000 trials through `raydd.remote.tune.run_trials` on a local Ray: the journal, the
proposals, Ray Tune and the storage are those of `raydd tune`, and a trial only reports three numbers. It tells the
seconds in proposals, in reports and ends (both of them our journal) and in Tune, over all and in the last tenth of the
trials, which shows what grows with their number.
"""

import argparse
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
    """The seconds that calls of a function take, by how many trials there were."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose calls are timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.calls.append(time.perf_counter() - start)

        return timed

    def row(self) -> dict[str, float]:
        """Return the seconds of all calls, and the milliseconds of one in the first and the last tenth."""
        tenth = max(1, len(self.calls) // 10)
        first, last = (1000 * sum(part) / tenth for part in (self.calls[:tenth], self.calls[-tenth:]))
        return {"seconds": round(sum(self.calls), 2), "first_ms": round(first, 2), "last_ms": round(last, 2)}


def measure(count: int, algorithm: str, scheduler: str) -> dict[str, Any]:
    """Run a search in this process and return its figures."""
    tree = {
        "method": "dm",
        "set": {"steps": REPORTS, "experts": {"network": "MLP"}},
        "domains": {"lr.images": {"log_uniform": [0.1, 100]}},
        "search": {"algorithm": algorithm, "first": "none"},
        "scheduler": {"name": scheduler},
        "budget": {"samples": count, "reports": REPORTS},
    }
    propose, report, end = Clock(), Clock(), Clock()
    ours = search.independent

    def trivial(trials: TrialScheduler, context: SearchContext) -> Strategy:
        return ours(trials, context)._replace(trainable=objective)

    with tempfile.TemporaryDirectory() as folder, session():
        study = Study(space := make_space(tree), Path(folder) / "study.journal")
        for name, clock in (("propose", propose), ("report", report), ("complete", end)):
            setattr(study, name, clock.around(getattr(study, name)))
        trials = TrialScheduler(study, count, lambda progress: None)
        context = SearchContext(space, None, Path(folder), "cpu")
        search.independent, before = trivial, memory_mb()
        start = time.perf_counter()
        try:
            search.run_trials(context, trials, search.Limits(), [])
        finally:
            search.independent = ours
        seconds = time.perf_counter() - start
        assert sum(record.state in {"complete", "pruned"} for record in study.records()) == count
        journal = (Path(folder) / "study.journal").stat().st_size
    inside = sum(sum(clock.calls) for clock in (propose, report, end))
    return {
        "trials": count,
        "algorithm": algorithm,
        "scheduler": scheduler,
        "seconds": round(seconds, 1),
        "trials_per_second": round(count / seconds, 2),
        "driver_mb": round(memory_mb()),
        "driver_mb_before": round(before),
        "journal_mb": round(journal / 1e6, 2),
        "propose": propose.row(),
        "report": report.row(),
        "end": end.row(),
        "tune_seconds": round(seconds - inside, 1),
    }


def memory_mb() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--algorithm", choices=["random", "tpe"], default="random")
    parser.add_argument("--scheduler", choices=["none", "asha"], default="none")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write benchmarks/scale_trials.json")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.counts[0], args.algorithm, args.scheduler)))
        return
    rows = []
    for count in args.counts:  # a process each, since memory is the most that one has had
        words = [sys.executable, __file__, "--one", "--counts", str(count), "--algorithm", args.algorithm]
        done = subprocess.run(
            [*words, "--scheduler", args.scheduler], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        rows.append(json.loads(next(line for line in done.splitlines() if line.startswith("{"))))
        print(json.dumps(rows[-1], indent=1), flush=True)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "ray": ray.__version__}
    if args.write:
        document = {"rows": rows, "machine": machine | {"load": round(os.getloadavg()[2], 1)}}
        write_atomic(Path(__file__).with_suffix(".json"), json.dumps(document, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
