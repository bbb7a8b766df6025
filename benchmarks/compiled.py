"""CPU time of compiled steps over that of the same steps operation by operation.

    python benchmarks/compiled.py --write

ConvNet-3 on 32 x 32 RGB in 10 classes, one thread, both ways one after the other in every repeat; `seconds` are CPU
seconds a step. The steps: of an expert (SGD, and sharpness-aware), of an evaluation, of a student's path with its
gradient to the images (``adjoint``, all synthetic images every step), and of matching a class's mean features.
`compiling` is the seconds until the first result, with an empty cache of the compiler. `error` is of the gradient.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from raydd.config.schema import ExpertConfig
from raydd.distillation.image_statistics import features
from raydd.io.files import write_atomic
from raydd.io.memory import keep_memory
from raydd.io.provenance import commit
from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel, classification_loss
from raydd.numerics.rng import generator
from raydd.numerics.statistics import means
from raydd.numerics.unroll import Batch, unroll
from raydd.training.compiled_step import CompiledStep
from raydd.training.optimizer_steps import STEPS

CLASSES, STUDENT_STEPS = 10, 10
Way = Callable[[], Tensor]
CASES = (
    *(("expert", network, 256) for network in ("ConvNetW32", "ConvNet")),
    *(("sharpness-aware expert", network, 256) for network in ("ConvNetW32",)),
    ("evaluation", "ConvNetW32", 100),
    *(("path", network, images) for network, images in (("ConvNetW32", 10), ("ConvNetW32", 100), ("ConvNet", 10))),
    *(("features", network, 256) for network in ("ConvNetW32", "ConvNet")),
)


def of_training(optimizer: str, network: str, images: int, compile: bool) -> Way:
    """A step that leaves a network's gradients."""
    torch.manual_seed(0)
    step = STEPS[optimizer](ExpertConfig(optimizer=optimizer))
    module = build(network, channels=3, size=32, classes=CLASSES)
    x, y = torch.randn(images, 3, 32, 32), torch.arange(images) % CLASSES
    fast = CompiledStep(lambda network, x, y: step(network, x, y, 1))

    def run() -> Tensor:
        fast(module, x, y) if compile else step(module, x, y, 1)
        return torch.cat([value.grad.flatten() for value in module.parameters()])

    return run


def of_path(network: str, images: int, compile: bool) -> Way:
    """A path of student steps, and its gradient to the images."""
    model = FlatModel(partial(build, network, channels=3, size=32, classes=CLASSES), compile)
    theta, target = model.init(generator(0)), model.init(generator(1))
    x, y = torch.randn(images, 3, 32, 32, generator=generator(2), requires_grad=True), torch.arange(images) % CLASSES
    lr, inner = torch.tensor(0.01, requires_grad=True), partial(model.run, classification_loss, scalar=True)

    def run() -> Tensor:
        path = unroll(inner, theta, [Batch(x, y)] * STUDENT_STEPS, lr, "adjoint")
        gradient: Tensor = torch.autograd.grad((path[-1] - target).square().sum(), x)[0]
        return gradient

    return run


def of_features(network: str, images: int, compile: bool) -> Way:
    """A class's step of DM: features of real images, and of ten synthetic ones with the gradient of their distance."""
    model = FlatModel(partial(build, network, channels=3, size=32, classes=CLASSES), compile)
    theta, labels = model.init(generator(0)), torch.zeros(images, dtype=torch.long)
    real = torch.randn(images, 3, 32, 32, generator=generator(1))
    own = torch.randn(CLASSES, 3, 32, 32, generator=generator(2), requires_grad=True)

    def run() -> Tensor:
        with torch.no_grad():
            wanted = model.run(features, theta, real, labels)
        loss = means(wanted, model.run(features, theta, own, labels[:CLASSES]))
        gradient: Tensor = torch.autograd.grad(loss, own)[0]
        return gradient

    return run


KINDS: dict[str, Callable[[str, int, bool], Way]] = {
    "expert": partial(of_training, "sgd"),
    "sharpness-aware expert": partial(of_training, "gsam"),
    "evaluation": partial(of_training, "sgd"),
    "path": of_path,
    "features": of_features,
}


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": mean(values), "std": stdev(values)}


def measure(kind: str, network: str, images: int, repeats: int) -> dict[str, Any]:
    """Both ways of a case."""
    plain, fast = (KINDS[kind](network, images, compile) for compile in (False, True))
    expected, begin = plain(), time.monotonic()
    found = fast()
    compiling, steps = time.monotonic() - begin, STUDENT_STEPS if kind == "path" else 1
    times: dict[str, list[float]] = {"plain": [], "compiled": []}
    for _ in range(repeats):
        for name, way in (("plain", plain), ("compiled", fast)):
            start = time.process_time()
            way()
            times[name].append((time.process_time() - start) / steps)
    ratios = [fast / plain for plain, fast in zip(times["plain"], times["compiled"], strict=True)]
    row = {"step": kind, "network": network, "images": images, "compiling": compiling, "over_plain": spread(ratios)}
    row |= {"seconds": {name: spread(row) for name, row in times.items()}}
    row |= {"error": float((found - expected).norm() / expected.norm())}
    print(kind, network, images, {"ratio": round(mean(ratios), 3), "compiling": round(compiling)}, file=sys.stderr)
    return row


def line(row: dict[str, Any]) -> str:
    """A row of the table in docs/costs.md."""
    step = f"{row['step']}, {row['network']}, {row['images']} images"
    plain = row["seconds"]["plain"]["mean"]
    ratio = row["over_plain"]
    return f"| {step} | {1000 * plain:.0f} ms | {ratio['mean']:.2f} ± {ratio['std']:.2f} | {row['compiling']:.0f} s |"


def main() -> None:
    """Measure and print; with --write, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/compiled.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        rows = [measure(*case, args.repeats) for case in CASES]
    found = {"commit": commit(), "torch": torch.__version__, "python": platform.python_version(), "rows": rows}
    found |= {"machine": f"{os.cpu_count()} cores, CPU, {torch.backends.cpu.get_cpu_capability()}"}
    text = json.dumps(found, indent=2) + "\n"
    print(text, *map(line, rows), sep="\n")
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())


if __name__ == "__main__":
    main()
