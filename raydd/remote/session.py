"""Connect to Ray, and compute how many workers fit on its resources."""

import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any, NamedTuple

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError

from raydd.io.pulse import PULSE
from raydd.io.signals import terminates
from raydd.remote.local import NAMESPACE, local_ray, reload_authentication

WORKERS_PER_GPU = 4
PATIENCE_SECONDS = 10.0
CONNECT_SECONDS = 10.0


@contextmanager
def session(
    address: str | None = None,
    note: Callable[[str], None] = lambda line: None,
    runtime_env: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Use the open connection to Ray, a given cluster, or a local Ray that is stopped after the block.

    Workers of a new connection have the runtime environment.

    A local Ray never joins another cluster on this machine, and no other user of the machine can reach it. SIGTERM ends
    the block like an exception.
    """
    options = {} if runtime_env is None else {"runtime_env": dict(runtime_env)}
    with _connected(address, note, **options):
        try:
            with redirect_stdout(sys.stderr):  # Ray prints dead workers to stdout, which is for results
                yield
        except RayError as error:
            raise RuntimeError(f"Ray: {' '.join(str(error).split())[-300:]}") from error


@contextmanager
def _connected(address: str | None, note: Callable[[str], None], **options: Any) -> Iterator[None]:
    if ray.is_initialized():
        if options:
            raise ValueError("runtime_env=: this process is connected to Ray already; give it to ray.init instead")
        _check_open(address)
        yield
        return
    sys.dont_write_bytecode = False  # workers inherit the environment; without bytecode each compiles torch again
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if address is None and os.environ.get("RAY_ADDRESS"):
        note("RAY_ADDRESS is set, but not --address: a local Ray starts (use --address auto to join that cluster)")
    address = None if address == "local" else address  # Ray's own would be open to all users
    with ExitStack() as stack:
        again = stack.enter_context(terminates())
        with PULSE.doing("starting Ray" if address is None else f"connecting to Ray at {address}"):
            stack.enter_context(local_ray(note, **options) if address is None else _joined(address, **options))
        again()
        yield


@contextmanager
def _joined(address: str, **options: Any) -> Iterator[None]:
    """Connect to a cluster for the block."""
    with reload_authentication():
        try:
            _check_answers(address)
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # of any type
            reason = " ".join(str(error).split())[:200]
            remedy = "start one with `ray start --head`; a token is read where RAY_AUTH_MODE=token says so"
            raise ValueError(f"no Ray at --address {address!r} ({reason}); {remedy}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens, to which Ray would try to connect for many minutes."""
    named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    client = named.partition("://")[2]
    host, _, port = (client or canonicalize_bootstrap_address(address) or "").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _check_open(address: str | None) -> None:
    """Refuse an address other than that of the open connection; ``auto`` is that of RAY_ADDRESS, if there is one."""
    wanted = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if wanted in (None, "", "auto"):
        return
    if ray.util.client.ray.is_connected():
        current = f"ray://{ray.util.client.ray.worker._conn_str}"
    else:
        current = ray.get_runtime_context().gcs_address
    node = ray._private.worker._global_node
    if wanted == "local" and node is not None and node.head:  # this process has started it
        return
    if wanted == "local" or _canonical(wanted) != _canonical(current):
        given = f"--address {address!r}" + (f" with RAY_ADDRESS={wanted}" if address == "auto" else "")
        raise ValueError(f"{given}: this process is connected to {current}; call ray.shutdown() before")


def _canonical(address: str) -> str:
    """Return an address with the numbers of its host, which are those of this machine if it is loopback."""
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    with suppress(OSError):
        host = socket.gethostbyname(host)
    return f"{scheme}://{canonicalize_bootstrap_address(f'{host}:{port}')}"


def is_open() -> bool:
    """Return whether this process is connected to a Ray."""
    return bool(ray.is_initialized())


class Plan(NamedTuple):
    """The workers that are started on a cluster."""

    workers: int
    cpus: int  # per worker
    gpus: float  # per worker
    note: str  # about a difference from the request, or empty


class Node(NamedTuple):
    """The free resources of one node."""

    cpus: float
    gpus: float


def plan(requested: int | None, jobs: int, cpus: int, gpus: float) -> Plan:
    """Return the workers to start on a cluster, see `spread`; ``gpus`` is 0 for work on CPUs."""
    return spread(requested, jobs, [Node(cpus, gpus)], gpus > 0)


def spread(requested: int | None, jobs: int, nodes: Sequence[Node], gpu: bool, share: float | None = None) -> Plan:
    """Return the workers to start on the nodes of a cluster; each fits on one node, a fraction of a GPU on one GPU.

    Without a request, there is a worker per CPU, or `WORKERS_PER_GPU` per GPU. ``share`` is the GPUs per worker.
    """
    if requested is not None and requested < 1:
        raise ValueError(f"--num-workers {requested}: at least 1 worker is needed")
    room = sum(_room(node, gpu, share) for node in nodes)
    if room < 1:
        lacks = f"CPU and {share:g} GPU on one node" if share and any(node.cpus >= 1 for node in nodes) else "CPU"
        raise ValueError(f"the cluster has no free {lacks} for a worker; wait for other work to end, or add a node")
    usual = room if share or not gpu else sum(min(int(n.cpus), math.ceil(n.gpus * WORKERS_PER_GPU)) for n in nodes)
    workers = max(1, min(requested or usual, room, jobs))
    note = ""
    if requested is not None and requested > room:
        limit = f"the cluster has resources for {room}"
        if len(nodes) == 1 and share is None:
            limit = f"the machine has {room} CPUs"
        note = f"{requested} workers requested, {limit}: running {workers}"
    elif requested is not None and requested > workers:
        note = f"{requested} workers requested, {jobs} jobs left: running {workers}"
    return Plan(workers, 1, (share or _share(workers, nodes)) if gpu else 0.0, note)


def _room(node: Node, gpu: bool, share: float | None) -> int:
    """Return the workers that fit on a node; GPU work does not run on a node without a GPU."""
    if not gpu or share is None:
        return int(node.cpus) if not gpu or node.gpus > 0 else 0
    if share >= 1:
        return min(int(node.cpus), int(node.gpus // share))
    whole = int(node.gpus)
    return min(int(node.cpus), whole * int(1 / share + 1e-9) + int((node.gpus - whole) / share + 1e-9))


def _share(workers: int, nodes: Sequence[Node]) -> float:
    """Return the GPUs per worker: the largest 1 / k with which all workers fit."""
    k = 1
    while sum(_room(node, True, 1 / k) for node in nodes) < workers:
        k += 1
    return 1 / k


def free_nodes() -> list[Node]:
    """Return the free resources of each living node, after waiting briefly for those of our own last work."""
    resources()
    query = available_resources_per_node
    client = ray.util.client.ray.is_connected()  # such a driver is outside the cluster: a task queries
    free = ray.get(ray.remote(query).options(num_cpus=0).remote()) if client else query()
    alive = (node["NodeID"] for node in ray.nodes() if node["Alive"])
    nodes = (free.get(name, {}) for name in alive)
    return [Node(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in nodes]


def resources() -> tuple[int, float]:
    """Return the free CPUs and GPUs of the connected cluster.

    Waits up to `PATIENCE_SECONDS` for all CPUs to be free, because our own last work may still hold some.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        free, total = ray.available_resources(), ray.cluster_resources()
        if free.get("CPU", 0) == total.get("CPU", 0) > 0 or time.monotonic() > end:
            return int(free.get("CPU", 0)), float(free.get("GPU", 0))
        time.sleep(0.2)
