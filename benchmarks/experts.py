"""Experts a minute against the number of workers, on digits; start-up of Ray and of the actors told apart.

    python benchmarks/experts.py --write

One Ray worker, two (a thread each), and one process without Ray whose PyTorch has both threads take turns in one run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from raydd.config.placement import Where
from raydd.config.schema import DataConfig, ExpertConfig
from raydd.remote.experts import train_missing
from raydd.remote.session import session
from raydd.training.expert_worker import ExpertJob, prepare

REPEATS = 3


def minutes(workers: int, experts: int, epochs: int) -> tuple[float, float]:
    """Minutes from the first epoch to the last expert, and seconds until the first epoch was seen."""
    with tempfile.TemporaryDirectory() as folder:
        job, missing = prepare(
            ExpertJob(DataConfig(), ExpertConfig(num_experts=experts, epochs=epochs), 0, Path(folder), "cpu")
        )
        start, first = time.monotonic(), None
        for step in train_missing(job, missing, Where(workers)):
            if first is None and step.epochs:
                first = time.monotonic()
    end = time.monotonic()
    first = first or end
    return (end - first) / 60, first - start


ALONE = """
import sys, tempfile, time
from pathlib import Path
import torch
from raydd.config.schema import DataConfig, ExpertConfig
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, prepare

experts, epochs, threads = map(int, sys.argv[1:])
with tempfile.TemporaryDirectory() as folder:
    config = ExpertConfig(num_experts=experts + 1, epochs=epochs)
    job, missing = prepare(ExpertJob(DataConfig(), config, 0, Path(folder), "cpu"))
    trainer = ExpertTrainer(job)
    torch.set_num_threads(threads)
    torch.set_num_threads = lambda count: None  # a worker keeps itself to one
    trainer.train(missing.pop(0))  # the first goes uncounted
    assert torch.get_num_threads() == threads
    start = time.monotonic()
    for index in missing:
        trainer.train(index)
    print((time.monotonic() - start) / 60)
"""


def alone(experts: int, epochs: int, threads: int) -> float:
    """Minutes of one process without Ray, after its first expert."""
    words = [sys.executable, "-c", ALONE, str(experts), str(epochs), str(threads)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Interleave them, and print or record what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--write", action="store_true", help="record the result beside this script")
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    starts: list[float] = []
    both: list[float] = []
    with session():
        for _ in range(REPEATS):
            for workers, found in rates.items():
                spent, start = minutes(workers, options.experts, options.epochs)
                found.append(options.experts / spent)
                starts.append(start)
            both.append(options.experts / alone(options.experts, options.epochs, 2))
    over_both = [two / threads for two, threads in zip(rates[2], both, strict=True)]
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    result = {
        "command": f"python benchmarks/experts.py --experts {options.experts} --epochs {options.epochs} --write",
        "machine": "2 cores, 24 GB, CPU",
        "versions": {name: version(name) for name in ("raydd", "ray", "torch")},
        "seed": 0,
        "experts_a_minute": {
            str(workers): {"mean": statistics.fmean(found), "std": statistics.stdev(found)}
            for workers, found in [*rates.items(), ("one process, two threads", both)]
        },
        "two_over_both_threads": {"mean": statistics.fmean(over_both), "std": statistics.stdev(over_both)},
        "two_over_one": {"mean": statistics.fmean(ratios), "std": statistics.stdev(ratios)},
        "seconds_to_first_epoch": {"mean": statistics.fmean(starts), "std": statistics.stdev(starts)},
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
