"""Time and peak memory of the three ways to differentiate a student's path.

    python benchmarks/unroll.py --write

One run is the path of N steps and its gradient to images, soft labels and lr: ConvNet-3 of width 128 on
32 x 32 RGB, all synthetic images every step, under another DSA view each step.

Memory: one process a figure; its peak resident size (``ru_maxrss``) less its resident size just before
the path, after one plain step as a warm-up. ``full`` keeps every step's graph, so it runs only where it is
expected to fit ``--budget``; the expectation is a line through its figures at N = 2 and 4, and is recorded
in place of the figure. Time: one process, the modes one after the other in every repeat.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from raydd.io.files import write_atomic
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.unroll import Batch, unroll

MODES = ("full", "adjoint", "truncated")
STEPS = (10, 20, 40, 80)
CLASSES = 10


class Task:
    """A path to differentiate."""

    def __init__(self, batch: int, seed: int) -> None:
        self.seed = seed
        self.model = FlatModel(lambda: build("ConvNet", channels=3, size=32, classes=CLASSES))
        self.theta = self.model.init(generator(seed, "theta"))
        self.target = self.model.init(generator(seed, "target"))
        rng = generator(seed, "images")
        self.images = torch.randn(batch, 3, 32, 32, generator=rng).requires_grad_()
        self.labels = torch.randn(batch, CLASSES, generator=rng).requires_grad_()
        self.lr = torch.tensor(0.01, requires_grad=True)

    def inner(self, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The student's loss."""
        return cross_entropy(self.model(theta, x), y.softmax(dim=1))

    def plain_step(self) -> None:
        """One step of training, the warm-up."""
        theta = self.theta.clone().requires_grad_()
        self.inner(theta, self.images, self.labels).backward()
        self.images.grad = self.labels.grad = None

    def gradients(self, mode: Any, steps: int) -> tuple[torch.Tensor, ...]:
        """The path and its gradient to images, labels and lr."""
        rng, dsa = generator(self.seed, "draws"), augment("dsa")
        views = [dsa.draw(self.images.shape, rng) for _ in range(steps)]
        batches = [Batch(self.images, self.labels, view) for view in views]
        end = unroll(self.inner, self.theta, batches, self.lr, mode)[-1]
        loss = (end - self.target).square().sum() / (self.theta - self.target).square().sum()
        return torch.autograd.grad(loss, [self.images, self.labels, self.lr])


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure_memory(mode: str, steps: int, args: argparse.Namespace) -> None:
    task = Task(args.batch, args.seed)
    task.plain_step()
    before = resident()
    task.gradients(mode, steps)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def peak(mode: str, steps: int, args: argparse.Namespace) -> int:
    """Bytes that a fresh process added to run the path."""
    shared = ["--batch", str(args.batch), "--seed", str(args.seed), "--threads", str(args.threads)]
    command = [sys.executable, __file__, *shared, "--memory", mode, str(steps)]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once: less noise
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout)


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes by mode and N, and what ``full`` is expected to need where it does not fit."""
    low, high = (peak("full", steps, args) for steps in (2, 4))
    found: dict[str, Any] = {mode: {} for mode in MODES}
    expected = {str(steps): low + (high - low) // 2 * (steps - 2) for steps in STEPS}
    for steps in STEPS:
        for mode in MODES:
            fits = mode != "full" or expected[str(steps)] <= args.budget * 1e9
            found[mode][str(steps)] = peak(mode, steps, args) if fits else None
    growth = found["adjoint"]["80"] / found["adjoint"]["10"]
    return {
        "peak_bytes": found,
        "full_expected_bytes": expected,
        "adjoint_80_over_10": growth,
        "accepted": growth <= 1.25,
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": mean(values), "std": stdev(values), "min": min(values), "max": max(values)}


def seconds(steps: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Time of each repeat by mode, after a short run of each that is not counted."""
    task = Task(args.time_batch, args.seed)
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    for mode in MODES:
        task.gradients(mode, 2)
    for _ in range(args.repeats):
        for mode, row in times.items():
            begin = time.perf_counter()
            task.gradients(mode, steps)
            row.append(time.perf_counter() - begin)
    return times


def timing(args: argparse.Namespace) -> dict[str, Any]:
    times = seconds(20, args)
    ratios = {mode: [a / b for a, b in zip(times[mode], times["full"], strict=True)] for mode in MODES[1:]}
    return {
        "steps": 20,
        "batch": args.time_batch,
        "repeats": args.repeats,
        "seconds": {mode: spread(row) for mode, row in times.items()},
        "over_full": {mode: spread(row) for mode, row in ratios.items()},
        "accepted": mean(ratios["adjoint"]) <= 1.6,
    }


def machine() -> str:
    gigabytes = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return f"{os.cpu_count()} cores, {gigabytes} GB, CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=100, help="images a step where memory is measured")
    parser.add_argument("--time-batch", type=int, default=64, help="images a step where time is measured")
    parser.add_argument("--budget", type=float, default=12, help="GB that full may use")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/unroll.json")
    parser.add_argument("--memory", nargs=2, metavar=("MODE", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        return measure_memory(args.memory[0], int(args.memory[1]), args)
    result = {
        "command": " ".join(["python benchmarks/unroll.py", *sys.argv[1:]]),
        "machine": machine(),
        "torch_threads": args.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": args.seed,
        "memory": {"batch": args.batch, **memory(args)},
        "time": timing(args),
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())
    return None


if __name__ == "__main__":
    main()
