"""How many operations of PyTorch an outer step of each method is made of: on a GPU each is a kernel or more.

    python benchmarks/operations.py --write

Views are left out. The network is a ConvNet-3 of width 8 on the digits, one image per class, with as few student steps,
real images and training epochs as the parts of the method allow; a count depends on them and on no width.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raydd.buffer.segments import InMemory
from raydd.config.parsing import build
from raydd.config.schema import DistillConfig
from raydd.data.workspace import open_workspace
from raydd.distillation.loop import Distillation
from raydd.distillation.setup import Setup
from raydd.io.files import write_atomic
from raydd.methods import METHODS, complete
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator

TOY = {"ipc": 1, "lr": {"start": 0.05}, "experts": {"network": "ConvNetW8", "num_experts": 1, "epochs": 3}}
FAMILIES = {
    "trajectories": {"student_steps": 4, "span": 1, "memory": 1e9},
    "statistics": {"statistic": {"batch_real": 8, "refresh": 3, "epochs": 2, "batch_size": 32, "queue_steps": 2}},
    "loss": {"student_steps": 4, "memory": 1e9, "unrolled": {"batch_real": 16, "window": 3, "radius": 0}},
    "kernel": {"kernel": {"batch_real": 16, "pool": 2, "renew": 4, "pool_steps": 1, "solver_steps": 2}},
}


class Counting(TorchDispatchMode):
    """Counts operations by name, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def learning() -> list[str]:
    """The methods that take steps."""
    matched = {name: complete(build(DistillConfig, {"method": name})).match for name in METHODS}
    return [name for name, match in matched.items() if match in FAMILIES and name != "sre2l"]  # it needs batch norm


def operations(method: str) -> Counter[str]:
    """Operations of the third outer step of a method, by name."""
    family = FAMILIES[complete(build(DistillConfig, {"method": method})).match]
    config = complete(build(DistillConfig, TOY, family, {"method": method}))
    work = open_workspace(config.data, config.experts.network, torch.device("cpu"))
    model = FlatModel(work.build)
    path = torch.stack([model.init(generator(0, epoch)) for epoch in range(4)])
    recipe = METHODS[method](Setup(config, work, InMemory([path], model.layout)))
    run = Distillation(recipe.objective, recipe.synset, recipe.learn, 0, gate=recipe.gate, ema=recipe.ema)
    list(run.run(2))
    with Counting() as counting:
        list(run.run(3))
    return counting.counts


def main() -> None:
    """Count and print; with --write, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/operations.json")
    args = parser.parse_args()
    document = {
        "command": " ".join(["python benchmarks/operations.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "operations": {method: sum(operations(method).values()) for method in learning()},
    }
    text = json.dumps(document, indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())


if __name__ == "__main__":
    main()
