"""How many trainings a second an evaluation hands out and takes back, and what memory that takes.

    python benchmarks/scale.py trainings --write

The queue of an evaluation is filled with trainings that take no time, as many as nasbench201 has architectures. Logical
workers, which are threads in a few processes, take them and return a result, with the calls that a worker of Ray Train
makes; the driver fetches the results as it does in an evaluation. What is measured is therefore the queue, which all
workers share, and not the training nor the start of workers. The rate stops to grow with the workers where the queue's
one process has no more time, which its share of a CPU shows.
"""

import argparse
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from raydd.evaluation.jobs import Job, Outcome
from raydd.io.files import write_atomic
from raydd.io.provenance import commit
from raydd.remote import train_matrix as remote
from raydd.remote.queue_actor import QueueActor
from raydd.remote.session import session

MEGA = 1e6


def resident() -> float:
    """The memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGA


class Queue(QueueActor):
    """The queue of an evaluation, which also tells what it takes."""

    def used(self) -> tuple[float, float]:
        """Its memory in MB, and the seconds that it was at work."""
        return resident(), time.process_time()


class Workers:
    """Logical workers in one process."""

    def run(self, queue: Any, names: list[str]) -> int:
        """Take trainings until none is left; how many were taken."""
        done: list[Job] = []

        def work(name: str) -> None:
            while (job := ray.get(queue.take.remote(name))) is not None:
                ray.get(queue.load.remote(job))
                ray.get(queue.put.remote(name, job, Outcome(0.5, 0.0)))
                done.append(job)

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(done)


def timed(trainings: int, workers: int, processes: int) -> dict[str, Any]:
    """One evaluation of trainings that take no time."""
    jobs = [Job(0, f"network {number}", 0) for number in range(trainings)]
    queue = ray.remote(Queue).options(num_cpus=0).remote()
    queue.begin.remote([], {}, jobs)
    stored: list[Job] = []
    before, (_, worked) = resident(), ray.get(queue.used.remote())
    results = remote._Results(queue, trainings, lambda step: None, lambda job, outcome: stored.append(job))
    pools = [ray.remote(Workers).options(num_cpus=0).remote() for _ in range(min(processes, workers))]
    ray.get([pool.run.remote(queue, []) for pool in pools])  # they have started
    start = time.monotonic()
    calls = [
        pool.run.remote(queue, [f"worker {name}" for name in range(place, workers, len(pools))])
        for place, pool in enumerate(pools)
    ]
    while len(results.all) < trainings:
        results.poll()
        time.sleep(remote.POLL_SECONDS)
    seconds = time.monotonic() - start
    memory, worked_after = ray.get(queue.used.remote())
    assert sum(ray.get(calls)) == len(stored) == trainings
    ray.kill(queue)
    for pool in pools:
        ray.kill(pool)
    return {
        "workers": workers,
        "trainings": trainings,
        "seconds": round(seconds, 2),
        "trainings_per_second": round(trainings / seconds, 1),
        "queue_cpu_share": round((worked_after - worked) / seconds, 3),
        "queue_megabytes": round(memory, 1),
        "driver_megabytes_added": round(resident() - before, 1),
    }


def measure_trainings(args: argparse.Namespace) -> dict[str, Any]:
    """The part ``trainings``: the same trainings by more and more workers."""
    with session():
        runs = [timed(args.trainings, workers, args.processes) for workers in map(int, args.workers.split(","))]
    return {"driver_megabytes": round(resident(), 1), "runs": runs}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"trainings": measure_trainings}


def main() -> None:
    """Measure a part, print it, and write it to ``scale.json`` beside the other parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--trainings", type=int, default=15_625)
    parser.add_argument("--workers", default="1,10,100,1000", help="numbers of logical workers, with commas")
    parser.add_argument("--processes", type=int, default=4, help="processes that the workers are threads of")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    machine = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
    found = PARTS[args.part](args) | {"commit": commit(), "load_average": os.getloadavg()[0], **machine}
    print(json.dumps(found, indent=2))
    if args.write:
        path = Path(__file__).with_suffix(".json")
        known = json.loads(path.read_text()) if path.exists() else {}
        write_atomic(path, (json.dumps(known | {args.part: found}, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
