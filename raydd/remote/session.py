"""Connecting to Ray, and deciding how many workers its resources carry."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import ray

NAMESPACE = "raydd"


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
    if ray.is_initialized():
        yield
        return
    _start(address)
    try:
        yield
    finally:
        ray.shutdown()


def _start(address: str | None) -> None:
    sys.dont_write_bytecode = False  # workers inherit the environment; without bytecode each compiles torch anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # no port of a local Ray leaves this machine
    local = {"num_cpus": os.cpu_count(), "include_dashboard": False} if address is None else {}
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
        asked: Workers asked for; None takes one a CPU.
        jobs: Independent jobs there are.
        cpus: CPUs of the cluster.
        gpus: GPUs that shall be used, 0 for work on CPUs.

    Raises:
        ValueError: If fewer than one worker is asked for, or the cluster has no CPU.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"--num-workers {asked}: at least 1 worker is needed")
    if cpus < 1:
        raise ValueError("the cluster has no CPU for a worker; wait for its nodes, or add one")
    workers = max(1, min(asked or cpus, cpus, jobs))
    note = ""
    if asked is not None and asked > cpus:
        note = f"{asked} workers asked, the machine has {cpus} CPUs: running {workers}"
    elif asked is not None and asked > workers:
        note = f"{asked} workers asked, {jobs} jobs left: running {workers}"
    return Plan(workers, 1, min(1.0, gpus / workers), note)


def resources() -> tuple[int, float]:
    """CPUs and GPUs of the connected cluster."""
    total = ray.cluster_resources()
    return int(total.get("CPU", 0)), float(total.get("GPU", 0))
