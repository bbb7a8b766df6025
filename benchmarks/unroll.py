"""CPU time and peak memory of the ways to differentiate a student's path, at several sizes.

    python benchmarks/unroll.py --write

One run is the path of N steps and its gradient to images and lr: ConvNet-3 on 32 x 32 RGB in 10 classes, all synthetic
images every step, under another DSA view each step.

Time: CPU seconds of one process with one thread, the ways one after the other in every repeat. ``plain`` is the full
unroll as one writes it with PyTorch's own modules, and what the others are divided by; ``floor`` is the forward passes,
gradients and second derivatives alone, of PyTorch's modules and each step for itself.

Memory: one process a figure; its peak resident size less its resident size just before the path, after one plain step
as a warm-up. ``full`` runs only where it is expected to fit ``--budget``.
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raydd.io.files import write_atomic
from raydd.io.memory import keep_memory
from raydd.io.provenance import commit
from raydd.models.classifier import GroupNorm
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.losses import cross_entropy
from raydd.numerics.rng import generator
from raydd.numerics.unroll import Batch, saved_bytes, unroll

SIZES = (("ConvNetW32", 1), ("ConvNetW32", 10), ("ConvNet", 1))  # network and images per class
CLASSES, STEPS = 10, 20
LENGTHS = (10, 20, 80)
PARTS = ("time", "memory")
MEMORY = (("ConvNetW64", 50), ("ConvNet", 100))  # network and batch
INFINITE = 1e15


class Task:
    """A path to differentiate."""

    def __init__(self, network: str, batch: int, seed: int) -> None:
        self.seed, self.network = seed, network
        self.model = FlatModel(self.build)
        self.module = self.build()
        for name, part in list(self.module.named_modules()):  # PyTorch's own for what is compared with
            parent, _, last = name.rpartition(".")
            if isinstance(part, GroupNorm):
                own = nn.GroupNorm(part.num_groups, part.num_channels)
                setattr(self.module.get_submodule(parent), last, own)
            elif isinstance(part, nn.AvgPool2d):
                setattr(self.module.get_submodule(parent), last, nn.AvgPool2d(part.kernel_size))
        self.theta = self.model.init(generator(seed, "theta"))
        self.target = self.model.init(generator(seed, "target"))
        self.images = torch.randn(batch, 3, 32, 32, generator=generator(seed, "images")).requires_grad_()
        self.labels = torch.arange(batch) % CLASSES
        self.lr = torch.tensor(0.01, requires_grad=True)

    def build(self) -> nn.Module:
        """A new network."""
        return build(self.network, channels=3, size=32, classes=CLASSES)

    def inner(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The student's loss."""
        return cross_entropy(self.model(theta, x), y)

    def views(self, steps: int) -> list[Any]:
        """The views of all steps, drawn."""
        rng, dsa = generator(self.seed, "draws"), augment("dsa")
        return [dsa.draw(self.images.shape, rng) for _ in range(steps)]

    def gradients(self, mode: Any, steps: int, memory: float) -> tuple[Tensor, ...]:
        """The path's gradient to images and lr."""
        batches = [Batch(self.images, self.labels, view) for view in self.views(steps)]
        end = unroll(self.inner, self.theta, batches, self.lr, mode, memory=memory)[-1]
        return torch.autograd.grad(self.distance(end), [self.images, self.lr])

    def plain(self, steps: int) -> tuple[Tensor, ...]:
        """The same as one writes it: the modules' parameters are views of one vector, which is trained on."""
        point = self.theta.clone().requires_grad_()
        for view in self.views(steps):
            loss = nn.functional.cross_entropy(self.outputs(point, view(self.images)), self.labels)
            (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
            point = point - self.lr * gradient
        return torch.autograd.grad(self.distance(point), [self.images, self.lr])

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """The logits of PyTorch's modules."""
        parameters, start = {}, 0
        for name, own in self.module.named_parameters():
            parameters[name] = theta[start : start + own.numel()].view(own.shape)
            start += own.numel()
        logits: Tensor = functional_call(self.module, parameters, (x,))
        return logits

    def floor(self, steps: int) -> None:
        """Forward, gradient and second derivative of every step alone."""
        parameters, views = list(self.module.parameters()), self.views(steps)
        for view in views:
            x = self.images.detach().requires_grad_()
            loss = nn.functional.cross_entropy(self.module(view(x)), self.labels)
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            torch.autograd.grad(gradients, [*parameters, x], gradients)

    def distance(self, end: Tensor) -> Tensor:
        """The normalised squared distance to the target."""
        return (end - self.target).square().sum() / (self.theta - self.target).square().sum()

    def step_bytes(self) -> int:
        """Bytes that the graph of one step takes."""
        with saved_bytes() as saved:
            self.gradients("full", 1, 0)
        return saved()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure_memory(args: argparse.Namespace) -> None:
    """Print the bytes that this process adds for one path."""
    network, batch, mode, steps, memory = args.memory
    task = Task(network, int(batch), args.seed)
    task.inner(task.theta.clone().requires_grad_(), task.images, task.labels).backward()
    before = resident()
    task.gradients(mode, int(steps), float(memory))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def peak(network: str, batch: int, mode: str, steps: int, args: argparse.Namespace, memory: float = 0) -> int:
    """Bytes that a fresh process added to run the path."""
    words = ["--seed", str(args.seed), "--memory", network, str(batch), mode, str(steps), str(memory)]
    command = [sys.executable, __file__, *words]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once: less noise
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout)


def memory_of(network: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes by N with nothing kept, and with budgets of some steps' graphs at N = 20."""
    step = Task(network, batch, args.seed).step_bytes()
    nothing = {str(steps): peak(network, batch, "adjoint", steps, args) for steps in LENGTHS}
    found: dict[str, Any] = {
        "network": network,
        "batch": batch,
        "step_bytes": step,
        "adjoint": nothing,
        "adjoint_80_over_10": nothing["80"] / nothing["10"],
    }
    budgets = [kept for kept in (5, 10, 20) if kept * step < args.budget * 1e9]
    found["kept_steps"] = {
        str(kept): peak(network, batch, "adjoint", STEPS, args, kept * step * 1.001) for kept in budgets
    }
    if STEPS * step < args.budget * 1e9:
        found["full"] = {str(STEPS): peak(network, batch, "full", STEPS, args)}
    print(network, batch, found, file=sys.stderr, flush=True)
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Mean, deviation and range."""
    return {"mean": mean(values), "std": stdev(values), "min": min(values), "max": max(values)}


def timing(network: str, ipc: int, args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of each way, and their ratios to ``plain`` repeat by repeat."""
    task = Task(network, ipc * CLASSES, args.seed)
    half = STEPS / 2 * task.step_bytes() * 1.001
    budgets = {"adjoint, all kept": INFINITE, "adjoint, half kept": half, "adjoint, nothing kept": 0.0}
    ways: dict[str, Callable[[], Any]] = {"plain": lambda: task.plain(STEPS), "floor": lambda: task.floor(STEPS)}
    ways["full"] = lambda: task.gradients("full", STEPS, 0)
    for name, memory in budgets.items():
        ways[name] = lambda memory=memory: task.gradients("adjoint", STEPS, memory)
    ways["truncated, nothing kept"] = lambda: task.gradients("truncated", STEPS, 0)
    ways["truncated, all kept"] = lambda: task.gradients("truncated", STEPS, INFINITE)
    results = {name: way() for name, way in ways.items()}  # and a warm-up
    exact = [results[name] for name in budgets]
    same = all(torch.equal(a, b) for other in exact[1:] for a, b in zip(exact[0], other, strict=True))
    error = max(
        float((a - b).norm() / b.norm()) for a, b in zip(results["adjoint, all kept"], results["plain"], strict=True)
    )
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            times[name].append(time.process_time() - begin)
    ratios = {name: [a / b for a, b in zip(row, times["plain"], strict=True)] for name, row in times.items()}
    print(network, ipc, {name: round(mean(row), 3) for name, row in ratios.items()}, file=sys.stderr, flush=True)
    return {
        "network": network,
        "ipc": ipc,
        "steps": STEPS,
        "repeats": args.repeats,
        "same_bits_at_every_budget": same,
        "error_to_plain": error,
        "seconds": {name: spread(row) for name, row in times.items()},
        "over_plain": {name: spread(row) for name, row in ratios.items() if name != "plain"},
    }


def accepted(result: dict[str, Any]) -> bool:
    """Whether the figures are what is asked of them."""
    kept = all(row["over_plain"]["adjoint, all kept"]["mean"] <= 1.05 for row in result["time"])
    nothing = all(row["over_plain"]["adjoint, nothing kept"]["mean"] <= 1.35 for row in result["time"])
    same = all(row["same_bits_at_every_budget"] for row in result["time"])
    flat = all(row["adjoint_80_over_10"] <= 1.5 for row in result["memory"])
    return kept and nothing and same and flat


def machine() -> str:
    """This machine, in words."""
    gigabytes = math.ceil(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return f"{os.cpu_count()} cores, {gigabytes} GB, CPU"


def main() -> None:
    """Measure and print; with --write, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=8, help="GB that one path may use")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="with --write, the others stay")
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/unroll.json")
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory:
        return measure_memory(args)
    keep_memory()
    file = Path(__file__).with_suffix(".json")
    before = json.loads(file.read_text()) if file.exists() else {}
    rows = {
        "time": lambda: [timing(network, ipc, args) for network, ipc in SIZES],
        "memory": lambda: [memory_of(network, batch, args) for network, batch in MEMORY],
    }
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/unroll.py", *sys.argv[1:]]),
        "machine": machine(),
        "commit": commit(),
        "torch_threads": 1,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": args.seed,
        **{part: rows[part]() if part in args.parts else before[part] for part in PARTS},
    }
    result["accepted"] = accepted(result)
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(file, text.encode())
    return None


if __name__ == "__main__":
    main()
