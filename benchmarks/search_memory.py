"""What one and two trials at once take of a machine's memory, over one buffer of experts.

    python benchmarks/search_memory.py --write

`raydd tune` runs in a process of its own, with a local Ray and as many trials as shall run at once; every trial reads
all of a buffer of random walks, a snapshot after the other. Every second the memory of that process and of all below
it is added up: private pages of each, and pages of a file (the data, libraries, Ray's object store) once, however many
processes map them. The buffer's pages are no process's: they are read through a map that is let go again, and lie in
the system's page cache, where they are counted, once. The most that was seen while all trials were at work is the
result.
"""

import argparse
import ctypes
import json
import mmap
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

from raydd.buffer.arrow_buffer import refresh_manifest
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import ExpertTrajectory, write_expert
from raydd.config.schema import DataConfig, ExpertConfig
from raydd.data.workspace import open_workspace
from raydd.io.files import write_atomic
from raydd.io.provenance import commit
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.training.expert_worker import ExpertJob, buffer_spec, prepare

TRIAL = "ray::ImplicitFunc"  # what Ray calls the process of a trial
MOST = 1.3
MEGA = 1e6


def make_buffer(folder: Path, args: argparse.Namespace) -> None:
    """Random walks in the place of experts."""
    recipe = ExpertConfig(network=args.network, num_experts=args.experts, epochs=args.epochs)
    job, missing = prepare(ExpertJob(DataConfig(), recipe, args.seed, folder, "cpu"))
    work = open_workspace(job.data, recipe.network, torch.device("cpu"))
    spec, model = buffer_spec(job, work), FlatModel(work.build)
    for index in missing:
        theta = model.init(generator(args.seed, index, "start"))
        steps = 1e-4 * torch.randn(args.epochs, len(theta), generator=generator(args.seed, index))
        walk = torch.cat([theta[None], steps]).cumsum(0)
        unmeasured = [float("nan")] * len(walk)
        write_expert(folder, spec, index, ExpertTrajectory(walk, None, range(len(walk)), unmeasured, unmeasured))
    refresh_manifest(folder)


def space(folder: Path, args: argparse.Namespace) -> Path:
    """A search whose trials draw from every epoch and learn next to nothing, quickly."""
    tree = {
        "method": "mtt",
        "set": {
            "steps": args.steps,
            "student_steps": 1,
            "span": 1,
            "window": {"low": 0, "high": args.epochs - 1},
            "evaluate_epochs": 1,
            "experts": {"network": args.network, "num_experts": args.experts, "epochs": args.epochs},
        },
        "domains": {"lr.images": {"log_uniform": [0.1, 1.0]}},
        "search": {"algorithm": "random", "first": "none"},
        "budget": {"samples": 2, "reports": 1},
    }
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def pages(pid: int) -> tuple[int, Counter[str]]:
    """Private bytes of a process, and bytes of each file that it has mapped and touched."""
    private, files = 0, Counter[str]()
    path = "[none]"
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            path = [*line.split(maxsplit=5), "[none]"][5]
        elif line.startswith("Rss:"):
            files[path] += 1024 * int(line.split()[1])
        elif line.startswith("Anonymous:"):
            anonymous = 1024 * int(line.split()[1])
            private += anonymous
            files[path] -= anonymous
    return private, files


def resident(path: Path) -> int:
    """Bytes of a file that the system holds in memory."""
    size = path.stat().st_size
    count = -(-size // mmap.PAGESIZE)
    marks = (ctypes.c_ubyte * count)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as pages:
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        if ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), marks):
            raise OSError(ctypes.get_errno(), f"{path}: the system does not say what it holds")
    return mmap.PAGESIZE * sum(mark & 1 for mark in marks)


def below(root: int) -> list[int]:
    """A process and all that it started, and they."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(parent, []).append(int(process.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def look(root: int, buffer: Path) -> dict[str, float]:
    """The memory of a process and of all below it, in MB."""
    private, trials, shared = 0, [], Counter[str]()
    for pid in below(root):
        try:
            own, files = pages(pid)
            name = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        except OSError:  # it has ended meanwhile
            continue
        private += own
        shared |= files  # the larger of two counts
        if name.startswith(TRIAL):
            trials.append(own)
    cached = sum(map(resident, buffer.glob("*.arrow")))
    return {
        "total_mb": (private + shared.total() + cached) / MEGA,
        "private_mb": private / MEGA,
        "files_mb": shared.total() / MEGA,
        "buffer_mb": cached / MEGA,
        "trials": len(trials),
        "private_a_trial_mb": sum(trials) / MEGA / max(1, len(trials)),
    }


def most(trials: int, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """The most memory that a search with so many trials at once took, once these had read the buffer."""
    words = ["tune", "--space", str(space(folder, args)), "--buffer", str(folder / "buffer")]
    words += ["--num-samples", str(trials), "--max-concurrent", str(trials), "--out", str(folder / f"out{trials}")]
    words += ["--seeds", "1", "--epochs", "1"]
    seen: dict[str, float] = {"total_mb": 0.0}
    with subprocess.Popen([sys.executable, "-m", "raydd", *words], stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            now = look(run.pid, folder / "buffer")
            if now["trials"] == trials and now["total_mb"] > seen["total_mb"]:
                seen = now
            time.sleep(1)
    if run.returncode:
        raise RuntimeError(f"the search with {trials} trials failed with {run.returncode}")
    return seen


def machine() -> str:
    gigabytes = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return f"{os.cpu_count()} cores, {gigabytes} GB, CPU"


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    make_buffer(folder / "buffer", args)
    one, two = (most(trials, folder, args) for trials in (1, 2))
    ratio = two["total_mb"] / one["total_mb"]
    return {
        "command": " ".join(["python benchmarks/search_memory.py", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": args.seed,
        "buffer_bytes": describe(folder / "buffer")["bytes"],
        "one": one,
        "two": two,
        "ratio": ratio,
        "accepted": ratio < MOST,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ConvNet")
    parser.add_argument("--experts", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/search_memory.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(measure(Path(folder), args), indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), text.encode())


if __name__ == "__main__":
    main()
