"""The trajectory buffer against a replay buffer of nested lists of tensors (torch.save).

    python benchmarks/buffer.py --write

measures, with a warm page cache, (1) the time to open and draw one segment, and (2) the private
memory that processes add by opening the buffer and drawing from it together. One draw of each form
goes uncounted. `ArrowBuffer` unmaps what it has copied, so no page of the files counts as private;
they stay in the page cache, once for all processes, which these figures leave out. ConvNet-3 of width 128
for 10 classes of 32 x 32 RGB has 320 010 parameters; 10 experts x 51 snapshots are 653 MB.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raydd.buffer.arrow_buffer import ArrowBuffer, create_buffer, refresh_manifest
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import ExpertTrajectory, write_expert
from raydd.buffer.spec import BufferSpec
from raydd.io.files import write_atomic
from raydd.numerics.flat import layout_of, split
from raydd.numerics.rng import generator

WINDOW, SPAN = (0, 40), 2


def convnet3(width: int) -> dict[str, torch.Tensor]:
    """Parameters of the ConvNet of depth 3 with instance norm, for 32 x 32 RGB and 10 classes."""
    parameters = {}
    for i, channels in enumerate((3, width, width)):
        parameters[f"{i}.conv.weight"] = torch.empty(width, channels, 3, 3)
        parameters |= {f"{i}.{name}": torch.empty(width) for name in ("conv.bias", "norm.weight", "norm.bias")}
    return parameters | {"head.weight": torch.empty(10, width * 16), "head.bias": torch.empty(10)}


def make(folder: Path, args: argparse.Namespace) -> None:
    """Write both forms of one buffer of random walks."""
    layout = layout_of(convnet3(args.width))
    parameters = sum(slot.numel for slot in layout)
    network = f"ConvNetW{args.width}"
    spec = BufferSpec("random", "0", "0", {}, network, 3, 32, 10, layout, (), {"epochs": args.snapshots - 1}, args.seed)
    create_buffer(folder / "arrow", spec)
    lists = []
    for index in range(args.experts):
        steps = torch.randn(args.snapshots, parameters, generator=generator(args.seed, index))
        theta = steps.cumsum(0)
        unmeasured = [float("nan")] * args.snapshots
        trajectory = ExpertTrajectory(theta, None, range(args.snapshots), unmeasured, unmeasured)
        write_expert(folder / "arrow", spec, index, trajectory)
        lists.append([[p.clone() for p in split(row, layout).values()] for row in theta])
    refresh_manifest(folder / "arrow")
    torch.save(lists, folder / "replay_buffer_0.pt")


def draw_arrow(folder: Path, seed: int) -> torch.Tensor:
    """Open the Arrow buffer and draw a segment."""
    segment = ArrowBuffer(folder / "arrow").segment(WINDOW, SPAN, generator(seed))
    return segment.start + segment.target


def draw_lists(folder: Path, seed: int) -> torch.Tensor:
    """Load the nested lists and draw a segment, as the published trajectory-matching scripts do."""
    lists = torch.load(folder / "replay_buffer_0.pt", weights_only=True)
    rng = generator(seed)
    expert = lists[int(torch.randint(len(lists), (), generator=rng))]
    t = int(torch.randint(WINDOW[0], WINDOW[1] + 1, (), generator=rng))
    start, target = (torch.cat([p.reshape(-1) for p in expert[i]]) for i in (t, t + SPAN))
    return start + target


def seconds(draw: Callable[[Path, int], torch.Tensor], folder: Path, repeats: int) -> list[float]:
    """Time of each repeat, after one that is not counted."""
    times = []
    for repeat in range(-1, repeats):
        begin = time.perf_counter()
        draw(folder, repeat)
        times.append(time.perf_counter() - begin)
    return times[1:]


def private_bytes() -> int:
    """This process's private memory: clean and dirty, files and anonymous."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def reader(folder: Path, name: str, draws: int) -> None:
    """One of the processes that share the buffer: says what it added, and stays until told to go."""
    before = private_bytes()
    buffer = ArrowBuffer(folder / "arrow")
    for draw in range(draws):
        segment = buffer.segment(WINDOW, SPAN, generator(0, name, draw))
    drawn = segment.start.shape[0]
    print("drawn", flush=True)
    sys.stdin.readline()  # until all have drawn: memory that two processes map is not private
    print(private_bytes() - before, drawn, flush=True)
    sys.stdin.readline()


def private_added(folder: Path, args: argparse.Namespace) -> list[int]:
    """Private bytes that each process added, measured while all are alive."""
    command = [sys.executable, __file__, "--draws", str(args.draws), "--reader"]
    pipe = subprocess.PIPE
    readers = [
        subprocess.Popen([*command, str(folder), str(i)], stdin=pipe, stdout=pipe, text=True, bufsize=1)
        for i in range(args.processes)
    ]
    for process in readers:
        assert process.stdout is not None
        assert process.stdout.readline() == "drawn\n"
    added = []
    for process in readers:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        added.append(int(process.stdout.readline().split()[0]))
    for process in readers:
        process.communicate("\n")
    return added


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": mean(values), "std": stdev(values), "min": min(values), "max": max(values)}


def machine() -> str:
    gigabytes = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return f"{os.cpu_count()} cores, {gigabytes} GB, CPU"


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    make(folder, args)
    size = describe(folder / "arrow")["bytes"]
    if not torch.equal(draw_arrow(folder, 0), draw_lists(folder, 0)):
        raise RuntimeError("the two forms gave different segments")
    # Memory first: what torch.load leaves in the page cache must not matter to it.
    added = [private_added(folder, args) for _ in range(args.repeats)]
    arrow, lists = (seconds(draw, folder, args.repeats) for draw in (draw_arrow, draw_lists))
    fractions = [sum(each) / size for each in added]
    return {
        "command": " ".join(["python benchmarks/buffer.py", *sys.argv[1:]]),
        "machine": machine(),
        "torch_threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyarrow": pa.__version__,
            "numpy": np.__version__,
        },
        "seed": args.seed,
        "buffer": {"experts": args.experts, "snapshots": args.snapshots, "bytes": size},
        "open_and_draw": {
            "arrow_seconds": spread(arrow),
            "torch_load_seconds": spread(lists),
            "ratio_of_means": mean(lists) / mean(arrow),
            "worst_ratio": min(lists) / max(arrow),
            "repeats": args.repeats,
            "accepted": mean(lists) / mean(arrow) >= 50,
        },
        "private_memory": {
            "processes": args.processes,
            "draws_each": args.draws,
            "fraction_of_buffer": spread(fractions),
            "bytes_added_by_each": added,
            "accepted": max(fractions) < 0.1,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=10)
    parser.add_argument("--snapshots", type=int, default=51)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/buffer.json")
    parser.add_argument("--reader", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        return reader(Path(args.reader[0]), args.reader[1], args.draws)
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(measure(Path(folder), args), indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())
    return None


if __name__ == "__main__":
    main()
