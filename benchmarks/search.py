"""TPE against random search: the best validation accuracy after as many trials, on digits.

    python benchmarks/search.py --write

A trial is a real distillation, `raydd.tuning.trial.run_trial`: mtt, 1 image a class, an MLP, 20 outer steps, three
experts of 20 epochs, trained here once for all. Its score is the mean accuracy of 4 fresh networks of 200 epochs on the
40 % of the training images that are held out (575). Seven settings are searched, with no scheduler and without the
preset's own point. The values come from `raydd.tuning.study.Study`, as in `raydd tune`, without Ray. Both algorithms
have the same budgets, the same seeds and, by those, the same first trials at random; nothing is taken over from one
search to another.

How the objective was chosen, before either algorithm had searched: eight points about the preset's values, each as a
single trial on ConvNetW8 and on an MLP with 30 outer steps and 2 scored networks, and on the MLP with 20 and 4. The
MLP's trials cost less, about a second. Ranges are four decades for lr.lr, three for lr.start and five for lr.images,
which hold the preset's values and ones that spoil the result. Nothing, the 40 trials included, was changed after the
first search.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from raydd.buffer.arrow_buffer import refresh_manifest
from raydd.io.provenance import commit
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, prepare
from raydd.tuning.space import Space
from raydd.tuning.space_files import make_space
from raydd.tuning.study import Study
from raydd.tuning.trial import SearchContext, run_trial

ALGORITHMS = ("tpe", "random")
SPACE: dict[str, Any] = {
    "method": "mtt",
    "dataset": "digits",
    "ipc": 1,
    "set": {
        "steps": 20,
        "checkpoint_every": 1000,
        "evaluate_networks": 4,
        "evaluate_epochs": 200,
        "data": {"validation": 0.4},
        "experts": {"network": "MLP", "num_experts": 3, "epochs": 20},
    },
    "domains": {
        "lr.images": {"log_uniform": [0.01, 1000]},
        "lr.lr": {"log_uniform": [1e-8, 1e-4]},
        "lr.start": {"log_uniform": [1e-4, 0.1]},
        "lr.momentum": {"uniform": [0.0, 0.9]},
        "student_steps": {"integer": [2, 20]},
        "span": {"integer": [1, 5]},
        "window.high": {"integer": [0, 15]},
    },
    "scheduler": {"name": "none"},
}

Objective = Callable[[int, Mapping[str, Any]], dict[str, float]]
"""Metrics of a trial, by its number and its values."""


def space(algorithm: str, seed: int, samples: int, startup: int) -> Space:
    """What is searched, and how."""
    how = {"algorithm": algorithm, "startup": startup, "first": "none"}
    return make_space(SPACE | {"search": how, "budget": {"samples": samples, "reports": 1}, "seed": seed})


def train(folder: Path) -> None:
    """The experts of all searches."""
    config = space("random", 0, 1, 1).config({})
    job, missing = prepare(ExpertJob(config.data, config.experts, 0, folder, "cpu"))
    trainer = ExpertTrainer(job)
    for index in missing:
        trainer.train(index)
    refresh_manifest(folder)


def distilled(task: SearchContext) -> Objective:
    """The objective: a distillation's score."""

    def score(number: int, values: Mapping[str, Any]) -> dict[str, float]:
        *_, last = run_trial(task, number, values)
        return {"accuracy": last.accuracy, "seconds": last.seconds, "step": last.step}

    return score


def searched(space: Space, file: Path, objective: Objective) -> list[dict[str, Any]]:
    """One search: values and accuracy of every trial, in order; 0 where the loss diverged.

    Args:
        space: What is searched, and how.
        file: The study's journal.
        objective: May raise FloatingPointError.
    """
    search = Study(space, file)
    while len(search) < (space.budget.samples or 0) and (ask := search.propose()) is not None:
        try:
            search.complete(ask.number, objective(ask.number, ask.values))
        except FloatingPointError as error:
            search.fail(ask.number, str(error))
    records = search.records()
    return [{"values": record.values, "accuracy": record.metrics.get("accuracy", 0.0)} for record in records]


def search_digits(algorithm: str, seed: int, buffer: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One search with its distillations, in a folder that is then removed."""
    chosen = space(algorithm, seed, options.samples, options.startup)
    with tempfile.TemporaryDirectory() as folder:
        objective = distilled(SearchContext(chosen, buffer, Path(folder), "cpu"))
        trials = searched(chosen, Path(folder) / "study.journal", objective)
    best = max(trial["accuracy"] for trial in trials)
    print(f"{algorithm}, seed {seed}: {best:.3f} after {len(trials)} trials", file=sys.stderr, flush=True)
    return trials


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Values, their mean and their standard deviation (n - 1)."""
    return {"values": list(values), "mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0}


def summary(accuracies: Mapping[str, Sequence[Sequence[float]]], startup: int) -> dict[str, Any]:
    """What the searches come to.

    Args:
        accuracies: Of every trial, by algorithm and search; the searches in the same order of seeds.
        startup: Trials before TPE looks at results.

    Returns:
        ``best``: by algorithm and number of trials, the best accuracy so far. ``area``: by algorithm, the mean over all
        trials of the best so far. ``tpe_less_random``: the differences of both, seed by seed.
    """
    curves = {name: [list(accumulate(one, max)) for one in found] for name, found in accuracies.items()}
    samples = min(len(curve) for found in curves.values() for curve in found)
    counts = [*range(startup, samples, startup), samples]
    best = {name: {n: [curve[n - 1] for curve in found] for n in counts} for name, found in curves.items()}
    area = {name: [fmean(curve) for curve in found] for name, found in curves.items()}

    def less(tpe: Sequence[float], random: Sequence[float]) -> dict[str, Any]:
        return spread([a - b for a, b in zip(tpe, random, strict=True)])

    return {
        "best": {name: {str(n): spread(values) for n, values in found.items()} for name, found in best.items()},
        "area": {name: spread(values) for name, values in area.items()},
        "tpe_less_random": {
            "best": {str(n): less(best["tpe"][n], best["random"][n]) for n in counts},
            "area": less(area["tpe"], area["random"]),
        },
        "tpe_wins": fmean(best["tpe"][samples]) > fmean(best["random"][samples]),
    }


def measure(buffer: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run all searches, and sum them up."""
    start, seeds = time.monotonic(), range(options.seeds)
    train(buffer)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=spawn) as pool:
        running = {
            (name, seed): pool.submit(search_digits, name, seed, buffer, options)
            for seed in seeds
            for name in ALGORITHMS
        }
        trials = {name: [running[name, seed].result() for seed in seeds] for name in ALGORITHMS}
    accuracies = {name: [[trial["accuracy"] for trial in one] for one in found] for name, found in trials.items()}
    return {
        "command": "python benchmarks/search.py " + shlex.join(sys.argv[1:]),
        "commit": commit(),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, CPU",
        "versions": {package: version(package) for package in ("raydd", "optuna", "torch")},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "seeds": list(seeds),
        "samples": options.samples,
        "startup": options.startup,
        "space": SPACE,
        **summary(accuracies, options.startup),
        "winners": {
            name: [max(one, key=lambda trial: trial["accuracy"]) for one in found] for name, found in trials.items()
        },
        "accuracies": accuracies,
    }


def main() -> None:
    """Search with both algorithms, and print or record what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="searches an algorithm: seeds 0, 1, ...")
    parser.add_argument("--samples", type=int, default=40, help="trials a search")
    parser.add_argument("--startup", type=int, default=10, help="of these at random, before TPE looks at results")
    parser.add_argument("--processes", type=int, default=1, help="searches at once; the figures are the same")
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/search.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder) / "buffer", options)
    print(json.dumps({key: value for key, value in result.items() if key != "accuracies"}, indent=1))
    if options.write:
        text = json.dumps(result, indent=1) + "\n"
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
