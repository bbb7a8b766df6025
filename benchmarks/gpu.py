"""The GPU section of docs/costs.md: seconds, memory and kernels of outer steps at the papers' settings.

    python benchmarks/gpu.py --write

takes under eight minutes on one GPU and needs neither Ray nor a download. MTT, DATM, MCT and TGDD run with the shipped
presets of CIFAR-10 at --ipc images per class: ConvNet-3 of width 128 and images 32 x 32 x 3. Images and experts are
made up: no time depends on their content. Beside each stands the same loop as it is written plainly with PyTorch's own
modules, in the same run; `ratio` is ours over theirs. `full` and `adjoint` are the ways back through the student's
path; `tf32`, `bfloat16` and `compiled` are `adjoint`, or the statistic's step, with that setting. A way that does not
fit the memory says so. Then five networks are trained on the set, one by one.

`--device cpu --smoke` tries everything with a small network in seconds.
"""

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from raydd.buffer.segments import InMemory
from raydd.config.parsing import build
from raydd.config.presets import load_preset
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, open_workspace, resolve_device, set_precision
from raydd.distillation.loop import Distillation
from raydd.distillation.setup import Setup
from raydd.evaluation.protocols import find_protocol
from raydd.evaluation.student import evaluate
from raydd.io.files import write_atomic
from raydd.io.provenance import commit
from raydd.methods import METHODS, complete
from raydd.models.classifier import GroupNorm
from raydd.numerics.augment import augment
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator

NAMES = ("mtt", "datm", "mct", "tgdd")
COMPILED = ("mtt", "tgdd")  # the compiler takes a minute for each
SMOKE = {"experts": {"network": "ConvNetW8"}, "statistic": {"batch_real": 8}}
SHORT = {"student_steps": 2}
CLASSES, EPOCHS_OF_TEST = 10, 100


def made_up(folder: Path, images: int) -> Path:
    """A data set in the form of CIFAR-10, of noise."""
    rng = np.random.default_rng(0)
    parts = {
        f"{kind}_{part}": rng.integers(0, 256, (count, 32, 32, 3), np.uint8) if kind == "x" else np.arange(count) % 10
        for part, count in (("train", images), ("test", 1000))
        for kind in "xy"
    }
    np.savez(folder / "noise.npz", **parts)
    return folder / "noise.npz"


def settings(method: str, data: Path, args: argparse.Namespace) -> DistillConfig:
    """The preset of a method on the images."""
    preset = load_preset("cifar10", method, args.ipc)
    own: dict[str, Any] = {"data": {"dataset": str(data), "flip": True}}
    if args.smoke:
        own["data"]["preprocessing"] = "normalise"
    layers = [preset, own]
    if args.smoke:
        layers += [SMOKE if method == "tgdd" else {"experts": SMOKE["experts"]} | SHORT]
    return complete(build(DistillConfig, *layers))


def trajectories(config: DistillConfig, model: FlatModel) -> InMemory:
    """An expert that walks at random, with as many snapshots as the settings reach."""
    epochs = config.experts.epochs if config.match == "trajectories" else 4
    steps = 0.01 * torch.randn(epochs + 1, model.size, generator=generator(0, "expert"))
    return InMemory([model.init(generator(0, "start")) + steps.cumsum(0)], model.layout)


class Clock:
    """Seconds and peak bytes on a device."""

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"

    def measure(self, action: Callable[[], object], repeats: int) -> dict[str, Any]:
        """Seconds of the fastest and the median of several runs, after one that does not count, and peak bytes."""
        action()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(repeats):
            self.wait()
            begin = time.perf_counter()
            action()
            self.wait()
            times.append(time.perf_counter() - begin)
        peak = torch.cuda.max_memory_allocated() if self.gpu else None
        return {"seconds": sorted(times)[len(times) // 2], "fastest": min(times), "peak_bytes": peak}

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.gpu:
            torch.cuda.synchronize()

    def kernels(self, action: Callable[[], object]) -> int | None:
        """How many kernels one run launches; None without a GPU."""
        if not self.gpu:
            return None
        kinds = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profile:
            action()
            self.wait()
        return sum(event.count for event in profile.key_averages())


def plain_path(config: DistillConfig, work: Workspace, run: Distillation, source: InMemory) -> Callable[[], object]:
    """An outer step of trajectory matching, written plainly: the path unrolled, its distance, one backward."""
    module = plain_module(work)
    synset, dsa = run.result, augment("dsa", flip=True)
    images = synset.images.clone().requires_grad_()
    labels = synset.labels.clone()
    lr = synset.lr.clone().requires_grad_()
    size = min(config.batch_size or len(images), len(images))

    def step() -> object:
        rng = torch.Generator().manual_seed(0)
        start, target = (source.trajectories[0][at].to(images) for at in (0, config.span))
        theta = start.clone().requires_grad_()
        for _ in range(config.student_steps):
            rows = torch.randperm(len(images), generator=rng)[:size].to(images.device)
            view = dsa.draw(images[rows].shape, rng)
            loss = nn.functional.cross_entropy(outputs(module, theta, view(images[rows])), of_rows(labels, rows))
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - lr * gradient
        distance = (theta - target).square().sum() / (start - target).square().sum()
        return torch.autograd.grad(distance, [images, lr])

    return step


def of_rows(labels: Tensor, rows: Tensor) -> Tensor:
    """Classes, or the probabilities of logits."""
    return labels[rows] if labels.ndim == 1 else labels[rows].softmax(1)


def plain_classes(config: DistillConfig, work: Workspace, run: Distillation, source: InMemory) -> Callable[[], object]:
    """An outer step of statistic matching, written plainly: means of features and a cross-entropy, class by class."""
    module, synset, dsa = plain_module(work), run.result, augment("dsa", flip=True, siamese=True)
    images, feed = synset.images.clone().requires_grad_(), work.feed(work.dataset.train)
    rows = [torch.nonzero(feed.split.targets == label)[:, 0] for label in range(CLASSES)]
    ipc = len(images) // CLASSES

    def features(theta: Tensor, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        handle = module.classifier.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        outputs(module, theta, x)
        handle.remove()
        return kept[0].flatten(1)

    def step() -> object:
        rng, total = torch.Generator().manual_seed(0), images.new_zeros(())
        theta = source.trajectories[0][1].to(images)
        for label in range(CLASSES):
            chosen = torch.randperm(len(rows[label]), generator=rng)[: config.statistic.batch_real]
            real, own = feed(rows[label][chosen])[0], images[label * ipc : (label + 1) * ipc]
            view = dsa.draw(own.shape, rng)
            with torch.no_grad():
                wanted = features(theta, view(real)).mean(0)
            total = total + (wanted - features(theta, view(own)).mean(0)).square().sum()
            targets = torch.full((ipc,), label, device=images.device)
            total = total + nn.functional.cross_entropy(outputs(module, theta, view(own)), targets)
        return torch.autograd.grad(total, images)

    return step


def plain_module(work: Workspace) -> Any:
    """The network with PyTorch's own normalisation."""
    module = work.build().to(work.device)
    for name, part in list(module.named_modules()):
        if isinstance(part, GroupNorm):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, nn.GroupNorm(part.num_groups, part.num_channels))
    return module.to(work.device)


def outputs(module: nn.Module, theta: Tensor, x: Tensor) -> Tensor:
    """The logits (B, K) of a module with the parameters theta (P,)."""
    parameters, start = {}, 0
    for name, own in module.named_parameters():
        parameters[name] = theta[start : start + own.numel()].view(own.shape)
        start += own.numel()
    logits: Tensor = functional_call(module, parameters, (x,))
    return logits


def outer_steps(config: DistillConfig, work: Workspace, source: InMemory) -> Distillation:
    """The method, ready for outer steps."""
    recipe = METHODS[config.method](Setup(config, work, source))
    return Distillation(recipe.objective, recipe.synset, recipe.learn, config.seed, ema=recipe.ema)


def method_row(method: str, data: Path, args: argparse.Namespace, clock: Clock) -> tuple[dict[str, Any], SyntheticSet]:
    """Figures of one method, and the set that its steps led to."""
    config, device = settings(method, data, args), resolve_device(args.device)
    work = open_workspace(config.data, config.experts.network, device)
    source = trajectories(config, FlatModel(work.build))
    path = config.match == "trajectories"
    ways: dict[str, dict[str, Any]] = {"full": {"backprop": "full"}, "adjoint": {}} if path else {"ours": {}}
    ways |= {precision: {"precision": precision} for precision in ("tf32", "bfloat16")}
    if method in COMPILED and not args.smoke:
        ways["compiled"] = {"compile": True}
    row: dict[str, Any] = {"method": method, "ipc": config.ipc, "network": config.experts.network}
    row |= {"student_steps": config.student_steps} if path else {"batch_real": config.statistic.batch_real}
    run = outer_steps(config, work, source)
    for way, changes in ways.items():
        own = config.model_copy(update=changes)
        set_precision(own.precision)
        tried = outer_steps(own, work, source)
        row[way] = fitting(lambda run=tried: list(run.run(run.step + 1)), clock, args.repeats)
    set_precision("float32")
    plain = plain_path if path else plain_classes
    row["plain"] = fitting(plain(config, work, run, source), clock, args.repeats)
    if "seconds" in row["plain"]:
        row["ratio"] = {way: ratio(row[way], row["plain"]) for way in ways}
    list(run.run(1))
    return row, run.result


def fitting(action: Callable[[], object], clock: Clock, repeats: int) -> dict[str, Any]:
    """Figures of an action; where the memory does not suffice, that."""
    try:
        return clock.measure(action, repeats) | {"kernels": clock.kernels(action)}
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"error": "out of memory"}


def ratio(ours: dict[str, Any], plain: dict[str, Any]) -> float | None:
    """Our seconds over those of the plain loop."""
    return ours["seconds"] / plain["seconds"] if "seconds" in ours else None


def evaluation_row(
    synset: SyntheticSet, data: Path, args: argparse.Namespace, clock: Clock, compile: bool
) -> dict[str, Any]:
    """Seconds to train and test networks on a set, one by one."""
    config, device = settings("mtt", data, args), resolve_device(args.device)
    work = open_workspace(config.data, config.experts.network, device, synset.transform)
    epochs = 2 if args.smoke else EPOCHS_OF_TEST
    protocol = find_protocol("mtt").model_copy(update={"epochs": epochs, "compile": compile})
    test, seeds = work.feed(work.dataset.test), iter(range(10**6))
    found = clock.measure(
        lambda: evaluate(synset, work.build, test, protocol, augment("dsa", flip=True), next(seeds)), args.networks
    )
    return {"networks": args.networks, "epochs": epochs, "network": config.experts.network} | found


def main() -> None:
    """Measure and print; with --write, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a small network and few repeats")
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/gpu.json")
    args = parser.parse_args()
    if args.smoke:
        args.repeats, args.networks, args.ipc = 1, 1, 1
        torch.set_num_threads(1)
    device = resolve_device(args.device)
    clock, begin = Clock(device), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = made_up(Path(folder), 500 if args.smoke else 50_000)
        rows, synset = [], None
        for name in NAMES:
            row, made = method_row(name, data, args, clock)
            rows.append(row)
            synset = made if name == "mtt" else synset
            print(json.dumps(row), file=sys.stderr, flush=True)
        assert synset is not None
        ways = (False,) if args.smoke else (False, True)
        tested = {("compiled" if way else "plain"): evaluation_row(synset, data, args, clock, way) for way in ways}
    document = {
        "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "deterministic": torch.backends.cudnn.deterministic,
        "commit": commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "methods": rows,
        "evaluation": tested,
        "minutes": math.ceil(time.monotonic() - begin) / 60,
    }
    text = json.dumps(document, indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())


if __name__ == "__main__":
    main()
