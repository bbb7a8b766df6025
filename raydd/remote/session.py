"""Connecting to Ray, and deciding how many workers its resources carry."""

import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NamedTuple

import ray
from ray.exceptions import RayError

NAMESPACE = "raydd"
WORKERS_PER_GPU = 4
PATIENCE_SECONDS = 10.0


@contextmanager
def session(address: str | None = None) -> Iterator[None]:
    """A connection to Ray: the one that is open, a given cluster, or a local Ray for the block alone.

    A local Ray is asked for by name, so that no cluster left on this machine is joined by accident.

    Args:
        address: Of an existing cluster, for example ``ray://head:10001`` or ``auto``; None starts a
            local Ray on this machine's cores and GPUs, and stops it at the end.

    Raises:
        ValueError: If the cluster cannot be reached.
    """
    ours = not ray.is_initialized()
    if ours:
        _start(address)
    try:
        with redirect_stdout(sys.stderr):  # Ray tells of dead workers there, and stdout is for results
            yield
    except RayError as error:
        raise RuntimeError(f"Ray: {' '.join(str(error).split())[-300:]}") from error
    finally:
        if ours:
            ray.shutdown()


def _start(address: str | None) -> None:
    sys.dont_write_bytecode = False  # workers inherit the environment; without bytecode each compiles torch anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # no port of a local Ray leaves this machine
    local = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False} if address is None else {}
    try:
        ray.init(
            address=address or "local",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **local,
        )
    except (ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        if address is None:
            raise RuntimeError(f"Ray did not start ({reason}); is there memory and disk enough?") from error
        raise ValueError(f"no Ray at --address {address!r} ({reason}); start one with `ray start --head`") from error


class Plan(NamedTuple):
    """How work is spread over a cluster.

    Attributes:
        workers: How many workers.
        cpus: CPUs a worker.
        gpus: GPUs a worker, a fraction where several share one.
        note: What differs from what was asked, in one line; empty when nothing does.
    """

    workers: int
    cpus: int
    gpus: float
    note: str


def plan(asked: int | None, jobs: int, cpus: int, gpus: float) -> Plan:
    """How many workers to start for a number of jobs; never more than the resources carry.

    Args:
        asked: Workers asked for; None takes one a CPU, or `WORKERS_PER_GPU` a GPU.
        jobs: Independent jobs there are.
        cpus: CPUs of the cluster.
        gpus: GPUs that shall be used, 0 for work on CPUs.

    Raises:
        ValueError: If fewer than one worker is asked for, or the cluster has no CPU.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"--num-workers {asked}: at least 1 worker is needed")
    if cpus < 1:
        raise ValueError("the cluster has no free CPU for a worker; wait for other work to end, or add a node")
    usual = cpus if gpus <= 0 else min(cpus, math.ceil(gpus * WORKERS_PER_GPU))
    workers = max(1, min(asked or usual, cpus, jobs))
    note = ""
    if asked is not None and asked > cpus:
        note = f"{asked} workers asked, the machine has {cpus} CPUs: running {workers}"
    elif asked is not None and asked > workers:
        note = f"{asked} workers asked, {jobs} jobs left: running {workers}"
    return Plan(workers, 1, _share(workers, gpus), note)


def _share(workers: int, gpus: float) -> float:
    """GPUs a worker: such a fraction that whole workers fit each GPU."""
    return 0.0 if gpus <= 0 else 1.0 / math.ceil(workers / gpus)


def resources() -> tuple[int, float]:
    """CPUs and GPUs of the connected cluster that are free.

    Others' work may hold some for good; what our own last work held is waited for, a few seconds.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        free, total = ray.available_resources(), ray.cluster_resources()
        if free.get("CPU", 0) == total.get("CPU", 0) > 0 or time.monotonic() > end:
            return int(free.get("CPU", 0)), float(free.get("GPU", 0))
        time.sleep(0.2)
