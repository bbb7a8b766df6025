"""CPU time of training steps and outer steps over their floor, the bare forward and backward passes.

    python benchmarks/floors.py --write

Rows: a step of an expert, a step of an evaluation, and outer steps of DM and TGDD, on made-up images of 32 x 32 RGB in
10 classes. ``floor`` runs the same passes with PyTorch's own modules on tensors that are ready: no augmentation, no
optimiser, no data access, no random draws. ``own floor`` does so with raydd's modules, whose pooling is faster.
``augmentation`` and ``images`` are parts of a step, each measured alone: drawing and applying the views, and reading
and preprocessing the real images.

CPU seconds of one process with one thread, the ways one after the other in every repeat; ratios are taken repeat by
repeat.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from raydd.buffer.segments import InMemory
from raydd.config.parsing import build
from raydd.config.presets import load_preset
from raydd.config.schema import DataConfig, DistillConfig, ExpertConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Feed, Workspace, open_workspace
from raydd.distillation.loop import Distillation
from raydd.distillation.real_images import RealImages
from raydd.distillation.setup import Setup
from raydd.evaluation.protocols import PROTOCOLS
from raydd.evaluation.student import evaluate
from raydd.io.files import write_atomic
from raydd.io.memory import keep_memory
from raydd.io.provenance import commit
from raydd.methods import METHODS, complete
from raydd.models.classifier import GroupNorm
from raydd.numerics.augment import Augment, augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.training.expert import train_expert

CLASSES, IPC, BATCH, IMAGES = 10, 10, 256, 5120
MOST = 1.1
"""The largest accepted ratio of a step to its floor."""

Way = Callable[[], object]


class Row(NamedTuple):
    """What is compared: each way does the same number of steps."""

    name: str
    network: str
    steps: int
    ways: dict[str, Way]


def make_workspace(folder: Path, network: str) -> Workspace:
    """Noise in the form of CIFAR-10, all of it for training."""
    file, rng = folder / "noise.npz", np.random.default_rng(0)
    if not file.exists():
        parts: dict[str, Any] = {}
        for part, count in (("train", IMAGES), ("test", CLASSES)):
            parts[f"x_{part}"] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
            parts[f"y_{part}"] = np.arange(count) % CLASSES
        np.savez(file, **parts)
    data = DataConfig(dataset=str(file), validation=0, flip=True)
    return open_workspace(data, network, torch.device("cpu"))


def plain_module(work: Workspace) -> Any:
    """The network of PyTorch's modules alone."""
    module = work.build()
    for name, part in list(module.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(part, GroupNorm):
            setattr(module.get_submodule(parent), last, nn.GroupNorm(part.num_groups, part.num_channels))
        elif isinstance(part, nn.AvgPool2d):
            setattr(module.get_submodule(parent), last, nn.AvgPool2d(part.kernel_size))
    return module


def floors_of(work: Workspace, passes: Callable[[Any], Way]) -> dict[str, Way]:
    """The passes with PyTorch's modules, and with raydd's."""
    return {"floor": passes(plain_module(work)), "own floor": passes(work.build())}


def training_passes(module: nn.Module, batch: int, steps: int) -> Way:
    """Forward, loss and backward to the weights."""
    x, y = torch.randn(batch, 3, 32, 32), torch.arange(batch) % CLASSES
    parameters = list(module.parameters())

    def run() -> None:
        for _ in range(steps):
            torch.autograd.grad(nn.functional.cross_entropy(module(x), y), parameters)

    return run


def views_of(own: Augment, shape: tuple[int, ...], steps: int) -> Way:
    """Views of batches, drawn and applied."""
    x, rng = torch.randn(shape), generator(0, "views")
    return lambda: [own.draw(x.shape, rng)(x) for _ in range(steps)]


def expert(work: Workspace, steps: int) -> Row:
    """Epochs of an expert, each of so many batches."""
    split = work.dataset.train
    train, nothing = work.feed(replace(split, index=split.index[: steps * BATCH])), work.feed(work.dataset.validation)
    training = train_expert(ExpertConfig(epochs=10**6), work.build, train, nothing, work.augment, (0, 0))
    next(training)
    rng = generator(0, "order")
    ways: dict[str, Way] = {
        "ours": lambda: next(training),
        **floors_of(work, partial(training_passes, batch=BATCH, steps=steps)),
        "augmentation": views_of(work.augment, (BATCH, 3, 32, 32), steps),
        "images": lambda: list(train.shuffled(BATCH, rng)),
    }
    return Row("expert, zca" if work.transform.kind == "zca" else "expert", work.network, steps, ways)


def whitened(work: Workspace) -> Workspace:
    """The same images under a made-up whitening, as MTT's presets have one."""
    size = 3 * 32 * 32
    matrix = torch.randn(size, size, generator=generator(0, "whitening")) / size
    return replace(work, transform=Transform("zca", {"mean": torch.zeros(size), "matrix": matrix, "inverse": matrix}))


def synthetic(work: Workspace) -> SyntheticSet:
    """A set of noise."""
    images = torch.randn(CLASSES * IPC, 3, 32, 32, generator=generator(0, "images"))
    labels, names = torch.arange(CLASSES).repeat_interleave(IPC), work.dataset.classes
    return SyntheticSet(images, labels, torch.tensor(0.01), work.transform, work.dataset.name, names)


def evaluation(work: Workspace, steps: int, name: str) -> Row:
    """Trainings of fresh networks on a set, of so many epochs of one batch, without their tests."""
    synset, nothing = synthetic(work), work.feed(work.dataset.validation)
    protocol, seeds = PROTOCOLS[name].changed(steps), iter(range(10**6))
    own = protocol.augmentation("dsa", flip=True)
    ways: dict[str, Way] = {
        "ours": lambda: evaluate(synset, work.build, nothing, protocol, own, next(seeds)),
        **floors_of(work, partial(training_passes, batch=len(synset.images), steps=steps)),
        "augmentation": views_of(own, tuple(synset.images.shape), steps),
    }
    return Row(f"evaluation, {name}", work.network, steps, ways)


def outer_step(work: Workspace, steps: int, method: str) -> Row:
    """Outer steps of a method of statistics, with its preset."""
    own = {"data": {"dataset": work.dataset.name, "flip": True}, "experts": {"network": work.network}}
    config = complete(build(DistillConfig, load_preset("cifar10", method, IPC), own))
    model = FlatModel(work.build)
    path = torch.stack([model.init(generator(0, epoch)) for epoch in range(4)])
    recipe = METHODS[method](Setup(config, work, InMemory([path], model.layout)))
    run = Distillation(recipe.objective, recipe.synset, recipe.learn, 0)
    chosen, feed = config.statistic, work.feed(work.dataset.train)
    counts = chosen.batch_real, IPC * config.formation.factor**2
    shared = augment(chosen.augment, siamese=True, strategy=chosen.strategy)
    ways: dict[str, Way] = {
        "ours": lambda: list(run.run(run.step + steps)),
        **floors_of(work, partial(class_passes, counts=counts, judged=bool(chosen.alpha), steps=steps)),
        "augmentation": shared_views(shared, counts, steps),
        "images": real_images(feed, chosen.batch_real, steps),
    }
    return Row(method, work.network, steps, ways)


def class_passes(module: Any, counts: tuple[int, int], judged: bool, steps: int) -> Way:
    """By class: forward of real images, forward and backward to the synthetic ones, with a judge to them once more."""
    module.requires_grad_(False)
    real, own = (torch.randn(count, 3, 32, 32) for count in counts)
    labels = torch.zeros(counts[1], dtype=torch.int64)
    own.requires_grad_()

    def run() -> None:
        for _ in range(steps * CLASSES):
            with torch.no_grad():
                wanted = module.features(real).mean(0)
            loss = (wanted - module.features(own).mean(0)).square().sum()
            if judged:
                loss = loss + nn.functional.cross_entropy(module(own), labels)
            torch.autograd.grad(loss, own)

    return run


def shared_views(shared: Augment, counts: tuple[int, int], steps: int) -> Way:
    """By class: a view, applied to real and synthetic images, and its backward pass to the latter."""
    real, own = (torch.randn(count, 3, 32, 32) for count in counts)
    slope, rng = torch.ones_like(own), generator(0, "views")
    own.requires_grad_()

    def run() -> None:
        for _ in range(steps * CLASSES):
            view = shared.draw(own.shape, rng)
            view(real)
            torch.autograd.grad(view(own), own, slope)

    return run


def real_images(feed: Feed, count: int, steps: int) -> Way:
    """By class: real images, drawn, read and preprocessed."""
    real, rng = RealImages(feed), generator(0, "rows")
    return lambda: [real(label, count, rng) for _ in range(steps) for label in range(CLASSES)]


def rows(folder: Path) -> Iterator[Row]:
    """All rows, each made when it is due."""
    narrow, wide = (make_workspace(folder, network) for network in ("ConvNetW32", "ConvNet"))
    for change in (lambda work: work, whitened):
        yield expert(change(narrow), 4)
        yield expert(change(wide), 1)
    for name in ("mtt", "dm"):
        yield evaluation(narrow, 10, name)
    yield evaluation(wide, 2, "dm")
    for method in ("dm", "tgdd"):
        yield outer_step(narrow, 1, method)
        yield outer_step(wide, 1, method)


def spread(values: list[float]) -> dict[str, float]:
    """Mean, deviation and range."""
    return {"mean": mean(values), "std": stdev(values), "min": min(values), "max": max(values)}


def measured(row: Row, repeats: int) -> dict[str, Any]:
    """CPU seconds a step of each way, and their ratios to the floor, after a repeat that does not count."""
    times: dict[str, list[float]] = {name: [] for name in row.ways}
    for _ in range(repeats + 1):
        for name, way in row.ways.items():
            begin = time.process_time()
            way()
            times[name].append((time.process_time() - begin) / row.steps)
    times = {name: found[1:] for name, found in times.items()}
    ratios = {name: [a / b for a, b in zip(found, times["floor"], strict=True)] for name, found in times.items()}
    result = {
        "name": row.name,
        "network": row.network,
        "steps": row.steps,
        "seconds": {name: spread(found) for name, found in times.items()},
        "over_floor": {name: spread(found) for name, found in ratios.items() if name != "floor"},
        "over_own_floor": spread([a / b for a, b in zip(ratios["ours"], ratios["own floor"], strict=True)]),
        "accepted": mean(ratios["ours"]) <= MOST,
    }
    print(line(result), file=sys.stderr, flush=True)
    return result


def line(row: dict[str, Any]) -> str:
    """A row of the table in docs/costs.md."""
    seconds, ratios = row["seconds"], row["over_floor"]
    columns = [row["name"], row["network"]]
    columns += [f"{1000 * seconds[name]['mean']:.0f} ms" for name in ("ours", "floor")]
    columns += [f"{ratio['mean']:.2f} ± {ratio['std']:.2f}" for ratio in (ratios["ours"], row["over_own_floor"])]
    columns += [f"{100 * ratios[name]['mean']:.1f} %" if name in ratios else "" for name in ("augmentation", "images")]
    return f"| {' | '.join(columns)} |"


def machine() -> str:
    """This machine, in words."""
    gigabytes = math.ceil(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return f"{os.cpu_count()} cores, {gigabytes} GB, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    """Measure and print; with --write, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/floors.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYDD_CACHE"] = folder
        found = [measured(row, args.repeats) for row in rows(Path(folder)) if row.name.startswith(args.only)]
    document = {
        "command": " ".join(["python benchmarks/floors.py", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "torch_threads": 1,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "repeats": args.repeats,
        "rows": found,
        "accepted": all(row["accepted"] for row in found),
    }
    text = json.dumps(document, indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())


if __name__ == "__main__":
    main()
