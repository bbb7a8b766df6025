"""Connecting to Ray, and deciding how many workers its resources carry."""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import NamedTuple

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError

from raydd.io.pulse import PULSE
from raydd.io.signals import terminates
from raydd.remote.local import NAMESPACE, local_ray, read_anew

WORKERS_PER_GPU = 4
PATIENCE_SECONDS = 10.0


@contextmanager
def session(address: str | None = None, note: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """A connection to Ray: the one that is open, a given cluster, or a local Ray for the block alone.

    A local Ray is asked for by name, so that no cluster left on this machine is joined by accident, and no other user
    of the machine can reach it. SIGTERM ends the block like an exception.

    Args:
        address: Of an existing cluster, for example ``ray://head:10001`` or ``auto``; None starts a
            local Ray on this machine's cores and GPUs, and stops it at the end.
        note: Called with a line about what is not as the environment asks for.

    Raises:
        ValueError: If the cluster cannot be reached, or another Ray is open.
    """
    with _opened(address, note):
        try:
            with redirect_stdout(sys.stderr):  # Ray tells of dead workers there, and stdout is for results
                yield
        except RayError as error:
            raise RuntimeError(f"Ray: {' '.join(str(error).split())[-300:]}") from error


@contextmanager
def _opened(address: str | None, note: Callable[[str], None]) -> Iterator[None]:
    if ray.is_initialized():
        _check_open(address)
        yield
        return
    sys.dont_write_bytecode = False  # workers inherit the environment; without bytecode each compiles torch anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if address is None and os.environ.get("RAY_ADDRESS"):
        note("RAY_ADDRESS is set, but not --address: a local Ray starts (--address auto joins that cluster)")
    with ExitStack() as stack:
        again = stack.enter_context(terminates())
        with PULSE.doing("starting Ray" if address is None else f"connecting to Ray at {address}"):
            stack.enter_context(local_ray(note) if address is None else _joined(address))
        again()
        yield


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """A connection to a cluster."""
    with read_anew():
        try:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of any type
            reason = " ".join(str(error).split())[:200]
            remedy = "start one with `ray start --head`; a token is read where RAY_AUTH_MODE=token says so"
            raise ValueError(f"no Ray at --address {address!r} ({reason}); {remedy}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _check_open(address: str | None) -> None:
    """Refuse an address that is not that of the Ray that is open.

    Raises:
        ValueError: Naming both.
    """
    if address in (None, "auto"):
        return
    if ray.util.client.ray.is_connected():
        found = f"ray://{ray.util.client.ray.worker._conn_str}"
    else:
        found = ray.get_runtime_context().gcs_address
    if address != found:
        raise ValueError(f"--address {address!r}: this process is connected to {found}; call ray.shutdown() before")


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


class Node(NamedTuple):
    """What is free on one node."""

    cpus: float
    gpus: float


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
    return spread(asked, jobs, [Node(cpus, gpus)], gpus > 0)


def spread(asked: int | None, jobs: int, nodes: Sequence[Node], gpu: bool, share: float | None = None) -> Plan:
    """How many workers to start on the nodes of a cluster: each must fit on one node, a fraction of a GPU on one GPU.

    Args:
        asked: Workers asked for; None takes one a CPU, or `WORKERS_PER_GPU` a GPU.
        jobs: Independent jobs there are.
        nodes: What is free.
        gpu: Whether the work is done on GPUs.
        share: GPUs a worker; None shares the GPUs as the number of workers asks.

    Raises:
        ValueError: If fewer than one worker is asked for, or no node has room for one.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"--num-workers {asked}: at least 1 worker is needed")
    room = sum(_room(node, gpu, share) for node in nodes)
    if room < 1:
        lacks = f"CPU and {share:g} GPU on one node" if share and any(node.cpus >= 1 for node in nodes) else "CPU"
        raise ValueError(f"the cluster has no free {lacks} for a worker; wait for other work to end, or add a node")
    usual = room if share or not gpu else sum(min(int(n.cpus), math.ceil(n.gpus * WORKERS_PER_GPU)) for n in nodes)
    workers = max(1, min(asked or usual, room, jobs))
    note = ""
    if asked is not None and asked > room:
        carries = f"the cluster has room for {room}"
        if len(nodes) == 1 and share is None:
            carries = f"the machine has {room} CPUs"
        note = f"{asked} workers asked, {carries}: running {workers}"
    elif asked is not None and asked > workers:
        note = f"{asked} workers asked, {jobs} jobs left: running {workers}"
    return Plan(workers, 1, (share or _share(workers, nodes)) if gpu else 0.0, note)


def _room(node: Node, gpu: bool, share: float | None) -> int:
    """Workers that fit on a node; a node without a GPU takes none of a GPU's work."""
    if not gpu or share is None:
        return int(node.cpus) if not gpu or node.gpus > 0 else 0
    if share >= 1:
        return min(int(node.cpus), int(node.gpus // share))
    whole = int(node.gpus)
    return min(int(node.cpus), whole * int(1 / share + 1e-9) + int((node.gpus - whole) / share + 1e-9))


def _share(workers: int, nodes: Sequence[Node]) -> float:
    """GPUs a worker: the largest 1 / k with which so many fit."""
    k = 1
    while sum(_room(node, True, 1 / k) for node in nodes) < workers:
        k += 1
    return 1 / k


def free_nodes() -> list[Node]:
    """What is free on each living node; what our own last work held is waited for, a few seconds."""
    resources()
    look = available_resources_per_node
    client = ray.util.client.ray.is_connected()  # such a driver is outside of the cluster: a task looks
    free = ray.get(ray.remote(look).options(num_cpus=0).remote()) if client else look()
    alive = (node["NodeID"] for node in ray.nodes() if node["Alive"])
    found = (free.get(name, {}) for name in alive)
    return [Node(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in found]


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
