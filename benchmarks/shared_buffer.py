"""The memory that several readers of one buffer on a node take together, and a buffer larger than the object store.

    python benchmarks/shared_buffer.py --write

makes a buffer of random walks (ConvNet-3 of width 128, 320 010 parameters; 8 experts x 51 snapshots, 522 MB), starts a
local Ray, and has four actors read every snapshot of it at once: memory-mapped from its folder, and from the object
store. Memory is the sum of the
proportional set sizes (PSS) of the driver and all of Ray's processes, less what it was before the buffer was opened,
plus once the bytes of files in the page cache, where the readers map files. Then the same readers read a buffer of
twice the size of the object store, by the way that `raydd.remote.buffer_store.share` chooses for an unseen folder:
a copy on the node's disk, whose bytes pass through the object store, of which at most all stays taken; here the process
that hands them out is on the same node and counts too. Last, the same buffer is put into that object store anyway:
Ray spills half of it to the disk and brings it back for each reader, which shows what the copy avoids.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

import raydd.remote.buffer_store as store
from raydd.buffer.arrow_buffer import ArrowBuffer, create_buffer, refresh_manifest
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, write_expert
from raydd.buffer.spec import BufferSpec
from raydd.io.files import write_atomic
from raydd.numerics.flat import layout_of
from raydd.numerics.rng import generator
from raydd.remote.buffer_store import SharedBuffer, share

READERS, SNAPSHOTS, PARAMETERS = 4, 51, 320_010


def make(folder: Path, experts: int) -> ArrowBuffer:
    """Write a buffer of random walks."""
    layout = layout_of({"w": torch.empty(PARAMETERS)})
    spec = BufferSpec("random", "0", "0", {}, "ConvNetW128", 3, 32, 10, layout, (), {"epochs": SNAPSHOTS - 1}, 0)
    create_buffer(folder, spec)
    unmeasured = [float("nan")] * SNAPSHOTS
    for index in range(experts):
        theta = torch.randn(SNAPSHOTS, PARAMETERS, generator=generator(0, index)).cumsum(0)
        write_expert(folder, spec, index, ExpertTrajectory(theta, None, range(SNAPSHOTS), unmeasured, unmeasured))
    refresh_manifest(folder)
    return ArrowBuffer(folder)


class Reader:
    """Reads every snapshot of a buffer, and holds what a distillation would: the buffer, open."""

    def __init__(self) -> None:
        self._buffer: ArrowBuffer | None = None

    def ready(self) -> int:
        """Its process, with all imported that it reads by, and the memory that such sums leave behind."""
        importlib.import_module("raydd.remote.buffer_store")
        for _ in range(SNAPSHOTS):
            float(torch.zeros(PARAMETERS).double().sum())
        return os.getpid()

    def read(self, buffer: ArrowBuffer) -> float:
        """The sum of all values, so that each is read."""
        self._buffer = buffer
        return sum(float(buffer.snapshot(e, t).double().sum()) for e in buffer.experts for t in range(SNAPSHOTS))


def pss() -> int:
    """Proportional set size in bytes of this process and of all of its Ray."""
    total, mine = 0, {os.getpid()}
    for entry in sorted((path for path in Path("/proc").iterdir() if path.name.isdigit()), key=lambda p: int(p.name)):
        try:
            status = (entry / "status").read_text()
            parent = int(status.split("PPid:")[1].split()[0])
            if int(entry.name) in mine or parent in mine:
                mine.add(int(entry.name))
                rolled = (entry / "smaps_rollup").read_text()
                total += 1024 * int(rolled.split("\nPss:")[1].split()[0])
        except (OSError, IndexError):
            continue
    return total


def measure(folder: Path, way: Callable[[ArrowBuffer], SharedBuffer], mapped: bool, room: int) -> dict[str, Any]:
    """Memory of four readers together, over the buffer's size; in a Ray of its own."""
    spilled = Path(tempfile.mkdtemp(prefix="spilled-", dir=folder.parent))
    ray.init(
        address="local",
        num_cpus=READERS,
        object_spilling_directory=str(spilled),
        object_store_memory=room,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    try:
        readers = [ray.remote(Reader).remote() for _ in range(READERS)]
        ray.get([reader.ready.remote() for reader in readers])
        before = pss()
        shared = way(ArrowBuffer(folder))
        size = sum(expert_path(folder, index).stat().st_size for index in shared.buffer.experts)
        hidden = folder.rename(folder.with_name("hidden")) if not mapped or "copied" in shared.note else None
        try:
            start = time.monotonic()
            sums = ray.get([reader.read.remote(shared.buffer) for reader in readers])
            seconds = time.monotonic() - start
        finally:
            if hidden:
                hidden.rename(folder)
        files = 0 if "in the object store" in shared.note else size
        added = pss() - before
        assert set(sums) == {Reader().read(ArrowBuffer(folder))}, "a reader saw other values"
        return {
            "chosen": shared.note.split("): ", 1)[1],
            "buffer_mb": size / 1e6,
            "object_store_mb": room / 1e6,
            "pss_added_mb": added / 1e6,
            "page_cache_mb": files / 1e6,
            "total_over_size": (added + files) / size,
            "seconds": seconds,
            "spilled_mb": sum(path.stat().st_size for path in spilled.rglob("*") if path.is_file()) / 1e6,
        }
    finally:
        ray.shutdown()
        shutil.rmtree(spilled, ignore_errors=True)


def blind(buffer: ArrowBuffer) -> SharedBuffer:
    """What `share` chooses where another node cannot see the folder."""
    nodes, sees = ray.nodes, store._sees
    other = {**ray.nodes()[0], "NodeID": "another"}
    ray.nodes, store._sees = lambda: [*nodes(), other], lambda node, folder: False  # type: ignore[assignment]
    try:
        return share(buffer)
    finally:
        ray.nodes, store._sees = nodes, sees


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="write benchmarks/shared_buffer.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RAYDD_CACHE"] = str(Path(scratch) / "cache")
        folder = Path(scratch) / "buffer"
        make(folder, args.experts)
        size = sum(path.stat().st_size for path in folder.glob("expert-*.arrow"))
        rows = {
            "memory-mapped": measure(folder, share, True, 2 * size),
            "object store": measure(folder, lambda buffer: share(buffer, "store"), False, 2 * size),
        }
        shutil.rmtree(Path(scratch) / "cache", ignore_errors=True)
        rows["twice the object store"] = measure(folder, blind, False, size // 2)
        rows["twice the object store, spilled"] = measure(
            folder, lambda buffer: share(buffer, "store"), False, size // 2
        )
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "ray": ray.__version__}
    accepted = all(rows[way]["total_over_size"] < 1.2 for way in ("memory-mapped", "object store"))
    document = {"readers": READERS, "rows": rows, "accepted": accepted, "machine": machine}
    print(json.dumps(document, indent=1))
    if args.write:
        write_atomic(Path(__file__).with_suffix(".json"), json.dumps(document, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
