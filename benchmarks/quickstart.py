"""The quick start by its parts, and the same trainings alone: two plain processes of one thread, without Ray.

    OMP_NUM_THREADS=1 python benchmarks/quickstart.py --write

Each run has an empty cache. Seconds of CPU hardly depend on what else runs on the machine; seconds do, so the share of
both CPUs that other programs took is recorded beside them.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

CPUS, TICKS = 2, os.sysconf("SC_CLK_TCK")
MARK = "RAYDD_BENCHMARK"
POLL_SECONDS = 0.2
PARTS = {  # the note with which each ends
    "packages and Ray": ": training ",
    "experts": ": 10 experts",
    "plan of the scores": "training 15 networks",
    "distillation, with 15 trainings beside it": "evaluating: ",
}


def main() -> None:
    """Measure both, and print or record the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the result beside this script")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "alone", str(Path(folder, "alone"))]
        environment = os.environ | {"RAYDD_CACHE": str(Path(folder, "cache-alone"))}
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        compute = json.loads(done.stdout.splitlines()[-1])
        run = quickstart(Path(folder))
    least = sum(compute.values()) / CPUS
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/quickstart.py --write",
        "machine": "2 cores, 24 GB, CPU",
        "versions": {name: version(name) for name in ("raydd", "ray", "torch")},
        "compute_alone_cpu_seconds": compute,
        "compute_alone_seconds_on_two_cores_at_least": least,
        "quickstart": run,
        "ratio_cpu": run["cpu_seconds"] / sum(compute.values()),
        "ratio_seconds": run["seconds"] / least,
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.write:
        Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


def quickstart(folder: Path) -> dict[str, Any]:
    """Run the command; return its seconds, those of its parts, its CPU seconds, and the share of other programs."""
    mark = str(os.getpid())
    environment = os.environ | {"RAYDD_CACHE": str(folder / "cache"), MARK: mark}
    words = [sys.executable, "-m", "raydd", "quickstart", "--out", str(folder / "run")]
    busy, start, spent = _busy_seconds(), time.monotonic(), dict[str, float]()
    with (folder / "notes").open("wb") as notes:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=notes, env=environment)
        ends: dict[str, float] = {}
        while process.poll() is None:
            text = (folder / "notes").read_text(errors="replace")
            for part, words_ in PARTS.items():
                if words_ in text:
                    ends.setdefault(part, time.monotonic() - start)
            _sample(f"{MARK}={mark}\0".encode(), spent)
            time.sleep(POLL_SECONDS)
    seconds, cpu = time.monotonic() - start, sum(spent.values())
    if process.returncode:
        raise RuntimeError((folder / "notes").read_text(errors="replace"))
    ends["last trainings, report, end of Ray"] = seconds
    times = [0.0, *ends.values()]
    parts = {part: end - begin for part, begin, end in zip(ends, times, times[1:], strict=False)}
    others = (_busy_seconds() - busy - cpu) / (seconds * CPUS)
    return {"seconds": seconds, "cpu_seconds": cpu, "parts_seconds": parts, "share_of_other_programs": others}


def _busy_seconds() -> float:
    """Return the seconds that all CPUs have been busy since the machine started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS


def _sample(mark: bytes, spent: dict[str, float]) -> None:
    """Update the CPU seconds of each process with the mark in its environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.name in spent or mark in (process / "environ").read_bytes() + b"\0":
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                spent[process.name] = (int(fields[11]) + int(fields[12])) / TICKS
        except OSError:  # it has ended, or is another user's
            continue


def alone(folder: Path) -> dict[str, float]:
    """Return the CPU seconds of the trainings of the quick start, in processes of one thread without Ray."""
    import torch

    from raydd.api.distill import distill
    from raydd.api.quick_start import EVALUATION
    from raydd.api.trainings import distinct_rows
    from raydd.buffer.arrow_buffer import refresh_manifest
    from raydd.config.fields import configure
    from raydd.config.presets import load_preset
    from raydd.config.schema import DistillConfig
    from raydd.evaluation.scores import plan
    from raydd.methods import complete
    from raydd.training.expert_worker import ExpertJob, prepare

    torch.set_num_threads(1)
    small = {"experts": {"epochs": 12}, "threads": 1}
    config = complete(configure(DistillConfig, load_preset("digits", "mtt", 1), small, {}))
    job, missing = prepare(ExpertJob(config.data, config.experts, config.seed, folder / "buffer", "cpu"))
    spent = {"experts": _in_two(train_experts, job, missing)}
    refresh_manifest(folder / "buffer")
    begin = time.process_time()
    synset = distill(config, folder, buffer=folder / "buffer")
    spent["distillation"] = time.process_time() - begin
    matrix, work = plan([synset], None, EVALUATION, "cpu")
    fewer, _ = distinct_rows(matrix, work.dataset)
    spent["scores"] = _in_two(train_networks, fewer, fewer.jobs())
    return spent


def _in_two(train: Any, what: Any, jobs: Sequence[Any]) -> float:
    """Return the CPU seconds of jobs in two processes, without those of their imports."""
    with multiprocessing.get_context("spawn").Pool(CPUS) as pool:
        return sum(pool.starmap(train, [(what, jobs[index::CPUS]) for index in range(CPUS)], chunksize=1))


def train_experts(job: Any, indices: Sequence[int]) -> float:
    """Train experts; return the seconds of CPU."""
    from raydd.training.expert_worker import ExpertTrainer

    trainer, begin = ExpertTrainer(job), time.process_time()
    for index in indices:
        trainer.train(index)
    return time.process_time() - begin


def train_networks(matrix: Any, jobs: Sequence[Any]) -> float:
    """Train networks of a matrix; return the seconds of CPU."""
    import torch

    from raydd.evaluation.matrix import Scorer

    torch.set_num_threads(1)
    scorer, begin = Scorer(matrix), time.process_time()
    for job in jobs:
        scorer.score(job)
    return time.process_time() - begin


if __name__ == "__main__":
    if sys.argv[1:2] == ["alone"]:
        print(json.dumps(alone(Path(sys.argv[2]))))
    else:
        main()
