"""Steps a second of one distillation whose steps are cut into shards, against the number of workers, on digits.

    python benchmarks/shards.py --write

Each method runs several times at once: in this process, and on pools of actors of one thread each. The runs take turns
step by step, so that other work on the machine slows all of them, and a ratio is of two steps that followed each
other. All runs must have the same bits after every step. `tgdd` and `dm` are cut into four groups of classes, `mtt`
into two pieces of each student step's batch.

Beside the wall time, `critical_path` has the CPU time of this process and of the busiest worker in a step: what the
step would take with a free core for each process. It tells what a crowded machine hides.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

import raydd
from raydd.config.parsing import build
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.data.preprocessing import fit_transform
from raydd.io.files import write_atomic
from raydd.methods import complete

SHARED: dict[str, Any] = {"threads": 1, "checkpoint_every": 10_000, "checkpoint_seconds": None}
SIZES: dict[str, dict[str, Any]] = {  # a step takes more than a second on one core
    "tgdd": {"ipc": 31, "shards": 4, "statistic": {"batch_real": 128}, "experts": {"network": "ConvNetW288"}},
    "dm": {"ipc": 50, "shards": 4, "statistic": {"batch_real": 128}, "experts": {"network": "ConvNetW640"}},
    "mtt": {
        "ipc": 100,
        "shards": 2,
        "student_steps": 10,
        "span": 1,
        "window": {"high": 1},
        "experts": {"network": "ConvNetW64"},
    },
}
EXPERTS = {"num_experts": 1, "epochs": 2}
WORKERS = {"tgdd": (1, 2, 4), "dm": (1, 2, 4), "mtt": (1, 2)}
ACCEPTED = 1.6
TICK = os.sysconf("SC_CLK_TCK")


class Runs:
    """Runs of one method, by their number of workers; one worker is this process."""

    def __init__(self, method: str, scratch: Path, steps: int, stack: ExitStack) -> None:
        self.config = complete(build(DistillConfig, SHARED, {"experts": EXPERTS}, SIZES[method], {"method": method}))
        self.config = self.config.model_copy(update={"steps": steps})
        self.scratch = scratch / method
        self.runs, self.iterators, self.actors = {}, {}, {}
        for workers in WORKERS[method]:
            before = actors()
            self.runs[workers] = self._run(workers, stack)
            self.iterators[workers] = iter(self.runs[workers].steps())
            next(self.iterators[workers])  # a first step that is not counted
            self.actors[workers] = actors() - before

    def _run(self, workers: int, stack: ExitStack) -> Any:
        import ray

        from raydd.remote.demand import Demand
        from raydd.remote.rollouts import RolloutPool
        from raydd.run.experts import open_buffer, plain_workspace, settle
        from raydd.run.resolve import bind, needs_experts
        from raydd.run.run import Run

        config, experts, device = self.config, None, torch.device("cpu")
        if needs_experts(config):
            recipe = ExpertsConfig(data=config.data, experts=config.experts)
            buffer = raydd.train_experts(recipe, self.scratch / "buffer")
            experts, work = open_buffer(Path(buffer), config, device)
        else:
            work = plain_workspace(config, device)
            work = replace(work, transform=fit_transform(config.data.preprocessing, work.dataset))
        context = bind(settle(config, experts), self.scratch / str(workers), experts, work, None)
        if workers == 1:
            return Run(context)
        pool = stack.enter_context(RolloutPool(workers - 1, Demand(), print))
        run = Run(context, pool.start)
        ray.wait(list(pool._running), num_returns=workers - 1, timeout=300)  # all have started
        return run

    def turn(self) -> dict[int, tuple[float, float]]:
        """Take one step of each run; the wall and critical seconds of each. Refuse other bits."""
        found = {}
        for workers, steps in self.iterators.items():
            before, start, own = cpu(self.actors[workers]), time.perf_counter(), time.process_time()
            next(steps)
            wall, own = time.perf_counter() - start, time.process_time() - own
            busiest = max((end - at for at, end in zip(before, cpu(self.actors[workers]), strict=True)), default=0.0)
            found[workers] = (wall, max(own, busiest))  # this process computes parts beside the actors
        images = [run.synset.images for run in self.runs.values()]
        assert all(torch.equal(images[0], other) for other in images[1:]), "other bits"
        return found


def actors() -> set[int]:
    """The actors that this process has started, by process."""
    titles, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                titles[int(entry.name)] = (entry / "cmdline").read_bytes()
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:  # it ended
                continue
    below = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return {number for number in below if titles.get(number, b"").startswith(b"ray::RolloutActor")}


def cpu(processes: set[int]) -> list[float]:
    """CPU seconds that each process has used."""
    texts = (Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split() for number in sorted(processes))
    return [(int(fields[11]) + int(fields[12])) / TICK for fields in texts]


def spread(values: list[float]) -> dict[str, float]:
    """Mean, standard deviation, least and largest."""
    return {"mean": fmean(values), "std": stdev(values), "min": min(values), "max": max(values)}


def measured(method: str, turns: list[dict[int, tuple[float, float]]]) -> dict[str, Any]:
    """The figures of one method."""
    found: dict[str, Any] = {"shards": SIZES[method]["shards"], "same_bits": True, "seconds": {}, "critical_path": {}}
    for workers in WORKERS[method]:
        found["seconds"][str(workers)] = spread([turn[workers][0] for turn in turns])
        found["critical_path"][str(workers)] = spread([turn[workers][1] for turn in turns])
    for workers in WORKERS[method][1:]:
        for name, place in (("speedup", 0), ("critical_speedup", 1)):
            ratios = [turn[1][place] / turn[workers][place] for turn in turns]
            found.setdefault(name, {})[str(workers)] = spread(ratios)
    found["accepted"] = found["speedup"]["2"]["mean"] >= ACCEPTED and found["seconds"]["1"]["mean"] >= 1
    return found


def turns_of(method: str, scratch: Path, turns: int) -> Iterator[dict[int, tuple[float, float]]]:
    """One step of each run, again and again."""
    with ExitStack() as stack:
        runs = Runs(method, scratch, turns + 2, stack)
        for _ in range(turns):
            yield runs.turn()


def main() -> None:
    """Measure all methods, and print or record the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12, help="steps of each run that are measured")
    parser.add_argument("--methods", default="tgdd,dm,mtt")
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/shards.json")
    options = parser.parse_args()
    from raydd.remote.local import local_ray

    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/shards.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, CPU",
        "load_average_before": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("raydd", "ray", "torch")},
        "seed": 0,
        "turns": options.turns,
        "methods": {},
    }
    with tempfile.TemporaryDirectory() as folder, local_ray(print, num_cpus=6):
        for method in options.methods.split(","):
            turns = list(turns_of(method, Path(folder), options.turns))
            result["methods"][method] = measured(method, turns)
            print(method, json.dumps(result["methods"][method]), file=sys.stderr, flush=True)
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if options.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())


if __name__ == "__main__":
    main()
