"""What a step of TGDD spends on drawing its two snapshots, from a memory-mapped buffer and from memory.

    python benchmarks/sampling.py --write

A step is `Snapshots.draw`, and for every class the loss, its gradient and the step of the images: ConvNet-3 on
32 x 32 RGB, 10 classes, mosaics of 2 x 2, 128 real images a class. The real images are random bytes in memory. The
two sources hold the same random walks, and their draws the same seeds; they take turns, step by step, with a warm
page cache. One step of each goes uncounted. Times are of the whole step and of the draw inside it; where the device
is a GPU, its queue is emptied before each reading of the clock.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from raydd.buffer.arrow_buffer import ArrowBuffer, create_buffer, refresh_manifest
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import ExpertTrajectory, write_expert
from raydd.buffer.segments import InMemory, TrajectorySource
from raydd.buffer.spec import BufferSpec
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.distillation.image_statistics import features
from raydd.distillation.leaves import Leaf
from raydd.distillation.loop import Distillation
from raydd.distillation.network_sources import NetworkPair, Snapshots
from raydd.distillation.statistic_matching import StatisticMatching
from raydd.io.files import write_atomic
from raydd.models.zoo import build
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.formation import Formation
from raydd.numerics.rng import generator
from raydd.numerics.statistics import means

CLASSES, STORED = 10, 256  # real images a class
MOST = 0.02  # of a step


class Timed(NamedTuple):
    """Networks whose draws are timed."""

    networks: Snapshots
    clock: Callable[[], float]
    seconds: list[float]

    def init(self, rng: torch.Generator) -> None:
        """Nothing is carried."""

    def draw(self, synset: SyntheticSet, state: None, step: int, rng: torch.Generator) -> tuple[NetworkPair, None]:
        """What the networks draw."""
        begin = self.clock()
        drawn = self.networks.draw(synset, state, step, rng)
        self.seconds.append(self.clock() - begin)
        return drawn


def network(args: argparse.Namespace) -> FlatModel:
    return FlatModel(lambda: build(f"ConvNetW{args.width}", channels=3, size=32, classes=CLASSES))


def sources(folder: Path, args: argparse.Namespace) -> dict[str, TrajectorySource]:
    """The same random walks in an Arrow buffer and in memory."""
    layout, snapshots = network(args).layout, args.epochs + 1
    spec = BufferSpec("random", "0", "0", {}, f"ConvNetW{args.width}", 3, 32, CLASSES, layout, (), {}, args.seed)
    create_buffer(folder, spec)
    walks = []
    for index in range(args.experts):
        theta = network(args).init(generator(args.seed, index, "start"))
        steps = 0.001 * torch.randn(args.epochs, len(theta), generator=generator(args.seed, index))
        walks.append(torch.cat([theta[None], steps]).cumsum(0))
        unmeasured = [float("nan")] * snapshots
        write_expert(folder, spec, index, ExpertTrajectory(walks[-1], None, range(snapshots), unmeasured, unmeasured))
    refresh_manifest(folder)
    return {"arrow": ArrowBuffer(folder), "in_memory": InMemory(walks, layout)}


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds, once all that was asked of the device is done."""

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def matching(networks: Timed, args: argparse.Namespace, device: torch.device) -> StatisticMatching:
    """TGDD's objective at its published settings for CIFAR-10."""
    rng = generator(args.seed, "real")
    pool = torch.rand(CLASSES, STORED, 3, 32, 32, generator=rng).to(device)

    def real(label: int, count: int, rng: torch.Generator) -> torch.Tensor:
        return pool[label][torch.randperm(STORED, generator=rng)[:count].to(device)]

    return StatisticMatching(
        networks=networks,
        model=network(args),
        statistic=features,
        distance=means,
        real=real,
        classes=CLASSES,
        batch_real=args.batch_real,
        augment=augment("dsa_idc", siamese=True, strategy="color_crop_cutout"),
        batch_synthetic=200,
        each_class=True,
        alpha=2.5,
    )


def start(args: argparse.Namespace, device: torch.device) -> SyntheticSet:
    images = torch.rand(CLASSES * args.ipc, 3, 32, 32, generator=generator(args.seed, "images"))
    labels = torch.arange(CLASSES).repeat_interleave(args.ipc)
    names = tuple(str(label) for label in range(CLASSES))
    mosaics = Formation(2)
    return SyntheticSet(images, labels, torch.tensor(0.01), Transform("raw01"), "random", names, formation=mosaics).to(
        device
    )


def steps(distillation: Distillation, read: Callable[[], float], count: int) -> Iterator[float]:
    """Seconds of each outer step."""
    for step in range(count):
        begin = read()
        list(distillation.run(step + 1))
        yield read() - begin


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": mean(values), "std": stdev(values), "min": min(values), "max": max(values)}


def machine(device: torch.device) -> str:
    gigabytes = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{os.cpu_count()} cores, {gigabytes} GB, {name}"


def timed_steps(folder: Path, args: argparse.Namespace) -> dict[str, tuple[list[float], list[float]]]:
    """By source: seconds of every step, and of the draw inside it; the first of each left out."""
    device = torch.device(args.device)
    read, timed, runs, taken = clock(device), {}, {}, {}
    for name, source in sources(folder, args).items():
        timed[name] = Timed(Snapshots(source, args.region), read, [])
        objective, learn = matching(timed[name], args, device), {"images": Leaf(0.01 * args.ipc, 0.5)}
        runs[name] = Distillation(objective, start(args, device), learn, args.seed)
        taken[name] = steps(runs[name], read, args.steps + 1)
    rounds = list(zip(*taken.values(), strict=True))  # the sources take turns
    arrow, memory = (run.result.images for run in runs.values())
    if not torch.equal(arrow, memory):
        raise RuntimeError("the two sources gave different images")
    whole = dict(zip(runs, zip(*rounds, strict=True), strict=True))
    return {name: (list(whole[name][1:]), timed[name].seconds[1:]) for name in runs}


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for name, (whole, draws) in timed_steps(folder, args).items():
        fraction = spread([draw / step for draw, step in zip(draws, whole, strict=True)])
        found[name] = {"step_seconds": spread(whole), "draw_seconds": spread(draws), "fraction": fraction}
    size = describe(folder)["bytes"]
    return {
        "command": " ".join(["python benchmarks/sampling.py", *sys.argv[1:]]),
        "machine": machine(torch.device(args.device)),
        "torch_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__},
        "seed": args.seed,
        "buffer": {"experts": args.experts, "snapshots": args.epochs + 1, "bytes": size},
        "step": {"network": f"ConvNetW{args.width}", "ipc": args.ipc, "batch_real": args.batch_real},
        "steps": args.steps,
        "sources": found,
        "accepted": found["arrow"]["fraction"]["mean"] < MOST,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--region", type=int, default=7)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--batch-real", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/sampling.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(measure(Path(folder) / "buffer", args), indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())


if __name__ == "__main__":
    main()
