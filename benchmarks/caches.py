"""What a second run on the same machine is spared: bytes of a buffer read, and trainings done again.

    python benchmarks/caches.py --write

Seconds on the wall, and CPU seconds of all threads: (1) to find a buffer of --gigabytes whole, first and again, with
its bytes in the page cache; (2) to find --results cached results of one evaluation.
"""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raydd.buffer.arrow_buffer import create_buffer, refresh_manifest
from raydd.buffer.expert_file import ExpertTrajectory, write_expert
from raydd.buffer.spec import BufferSpec
from raydd.buffer.verification import check_whole
from raydd.config.schema import DataConfig
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Outcome
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.result_cache import CacheKeys, ResultCache, cached_outcomes
from raydd.io.files import write_atomic
from raydd.io.provenance import commit
from raydd.numerics.flat import layout_of
from raydd.numerics.rng import generator

SNAPSHOTS, PARAMETERS = 51, 320_010
SECONDS_AFTER = 3.0  # a file that has just been written is not remembered
MOST_SECONDS = 1.0  # of the CPU, for 10,000 results
PARTS = ("cached_results", "buffer")


def timed(action: Callable[[], object]) -> dict[str, float]:
    """Seconds on the wall and of the CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def buffer(folder: Path, gigabytes: float) -> dict[str, Any]:
    """Seconds to find a buffer whole."""
    layout = layout_of({"w": torch.zeros(PARAMETERS)})
    spec = BufferSpec("random", "0", "0", {}, "ConvNet", 3, 32, 10, layout, (), {"epochs": SNAPSHOTS - 1}, 0)
    create_buffer(folder, spec)
    experts = math.ceil(gigabytes * 1e9 / (4 * SNAPSHOTS * PARAMETERS))
    theta = torch.randn(SNAPSHOTS, PARAMETERS, generator=generator(0))
    for index in range(experts):
        write_expert(folder, spec, index, ExpertTrajectory(theta, None, range(SNAPSHOTS), [0.5] * 51, [1.0] * 51))
    refresh_manifest(folder)
    time.sleep(SECONDS_AFTER)
    first = timed(lambda: check_whole(folder))
    again = [timed(lambda: check_whole(folder)) for _ in range(5)]
    return {
        "bytes": sum(path.stat().st_size for path in folder.glob("*.arrow")),
        "experts": experts,
        "first": first,
        "again": max(again, key=lambda row: row["wall"]),
    }


def results(folder: Path, count: int) -> dict[str, Any]:
    """Seconds to find cached results of 20 sets on one network."""
    data = DataConfig()
    dataset = open_workspace(data, None, torch.device("cpu")).dataset
    transform = fit_transform("normalise", dataset)
    rows = []
    for index in range(20):
        images = torch.randn(100, 1, 8, 8, generator=generator(0, index))
        labels = torch.arange(10).repeat_interleave(10)
        synset = SyntheticSet(images, labels, torch.tensor(0.02), transform, "digits", dataset.classes)
        rows.append(ScoreRow(str(index), "distilled", (synset,)))
    matrix = Matrix(
        tuple(rows),
        ("ConvNet",),
        range(count // 20),
        Protocol(name="p", epochs=300, plain_epochs=300, real_epochs=5, lr=None),
        data,
        "cpu",
    )
    keys, cache = CacheKeys(matrix, dataset), ResultCache(folder, commit="0")
    outcome = Outcome(0.75, 1.5, tuple((epoch, 0.5) for epoch in range(0, 300, 20)))
    for job in matrix.jobs():
        cache.store(keys.of(job), outcome)
    found: list[int] = []

    def find() -> None:
        found.append(len(cached_outcomes(matrix, CacheKeys(matrix, dataset), ResultCache(folder))))

    times = [timed(find) for _ in range(5)]
    if set(found) != {len(matrix.jobs())}:
        raise RuntimeError(f"only {min(found)} of {len(matrix.jobs())} results were found")
    slowest = max(times, key=lambda row: row["cpu"])
    return {"results": found[0], "repeats": len(times), "slowest": slowest, "accepted": slowest["cpu"] <= MOST_SECONDS}


def main() -> None:
    """Measure and print; with --write, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=6.5)
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="with --write, the others stay")
    parser.add_argument("--write", action="store_true", help="record the result in benchmarks/caches.json")
    args = parser.parse_args()
    file = Path(__file__).with_suffix(".json")
    before = json.loads(file.read_text()) if file.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYDD_CACHE"] = str(Path(folder) / "cache")
        measure = {
            "cached_results": lambda: results(Path(folder) / "results", args.results),
            "buffer": lambda: buffer(Path(folder) / "buffer", args.gigabytes),
        }
        document: dict[str, Any] = {
            "command": " ".join(["python benchmarks/caches.py", *sys.argv[1:]]),
            "machine": f"{os.cpu_count()} cores, CPU",
            "commit": commit(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            **{part: measure[part]() if part in args.parts else before[part] for part in PARTS},
        }
    text = json.dumps(document, indent=1) + "\n"
    print(text, end="")
    if args.write:
        write_atomic(file, text.encode())


if __name__ == "__main__":
    main()
