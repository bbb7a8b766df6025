"""Demands: what one worker needs of a cluster, whose nodes may not have been started yet.

A demand is submitted to Ray as it is. Ray starts the workers as soon as there are resources, and pending workers are
what makes an autoscaler start nodes. Counts of nodes only limit and describe the demands.
"""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import ray
import torch
from ray._private.state import state

from raydd.data.workspace import resolve_device

WORKERS_PER_GPU = 4


class Demand(NamedTuple):
    """What one worker needs, in Ray's units."""

    cpus: float = 1.0
    gpus: float = 0.0  # a part of one GPU, or whole GPUs of one node
    memory: int = 0  # bytes

    @property
    def device(self) -> str:
        """The device of the worker's computation, ``cpu`` or ``cuda``."""
        return "cuda" if self.gpus else "cpu"

    @property
    def options(self) -> dict[str, Any]:
        """Options of an actor or a task."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus} | ({"memory": self.memory} if self.memory else {})

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of a worker group, a trial, or a bundle of a placement group."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in amounts.items() if amount}

    def words(self) -> str:
        """Return the demand in words, such as ``1 CPU, 0.25 GPU``."""
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        memory = f", {self.memory / 1e9:.1f} GB" if self.memory else ""
        return f"{self.cpus:g} CPU{gpus}{memory}"


class NodeShape(NamedTuple):
    """Nodes of one kind, alive or configured for the autoscaler."""

    resources: dict[str, float]
    nodes: float = 1  # infinite if the autoscaler has no limit
    alive: bool = True  # else configured

    def room(self, demand: Demand) -> float:
        """Return how many workers all nodes of the kind have room for; a fraction of a GPU fits on one GPU."""
        needed = demand.bundle
        if 0 < demand.gpus < 1:
            needed["GPU"] = 1 / int(1 / demand.gpus + 1e-9)
        fits = min((self.resources.get(name, 0.0) / amount for name, amount in needed.items()), default=1.0)
        return int(fits + 1e-9) * self.nodes if fits >= 1 - 1e-9 else 0


def node_shapes() -> list[NodeShape]:
    """Return the living nodes, and the types of nodes that the cluster's autoscaler can start."""
    shapes = [NodeShape(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return shapes + [NodeShape(resources, most, alive=False) for resources, most in _configured()]


def _configured() -> list[tuple[dict[str, float], float]]:
    """Return the resources and the largest number of each type of node that is configured for the autoscaler."""
    if ray.util.client.ray.is_connected():  # such a driver is outside the cluster: a task asks
        return list(ray.get(ray.remote(_read_configured).options(num_cpus=0).remote()))
    return _read_configured()


def _read_configured() -> list[tuple[dict[str, float], float]]:
    config = state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    return [
        ({name: float(amount) for name, amount in group.resources.items()}, _count(group.max_count)) for group in groups
    ]


def _count(maximum: int) -> float:
    return float("inf") if maximum < 0 else float(maximum)


def capacity(demand: Demand, shapes: Iterable[NodeShape]) -> float:
    """Return how many workers a cluster has room for when no other work runs on it."""
    known = list(shapes)  # living nodes may be of the configured types
    return max(sum(shape.room(demand) for shape in known if shape.alive is alive) for alive in (True, False))


def demand_for(
    device: str, *, cpus: float = 1.0, gpus: float | None = None, memory: int = 0, default_gpus: float = 1.0
) -> Demand:
    """Return the demand of a worker on the connected cluster.

    Args:
        device: ``cpu``, ``cuda``, or ``auto``: a GPU if a node of the cluster has one, alive or configured.
        cpus: CPUs a worker, of one node.
        gpus: The user's GPUs a worker; None takes ``default_gpus``.
        memory: Bytes of memory that Ray reserves for a worker; 0 reserves none.
        default_gpus: GPUs a worker where the user gives none.

    Raises:
        ValueError: GPUs are wanted and no node has one, or no kind of node has room for one worker.
    """
    shapes = node_shapes()
    largest = max((shape.resources.get("GPU", 0.0) for shape in shapes if shape.nodes), default=0.0)
    if not largest and gpus is not None:
        raise ValueError(f"--gpus-per-worker {gpus:g}: no node of the cluster has a GPU; leave it out, or add one")
    if not largest and device == "cuda":
        raise ValueError("--device cuda: no node of the cluster has a GPU; use --device cpu, or add a node with one")
    on_gpu = device == "cuda" or (device == "auto" and largest > 0)
    demand = Demand(cpus, (default_gpus if gpus is None else gpus) if on_gpu else 0.0, memory)
    if any(shape.nodes for shape in shapes) and not capacity(demand, shapes):
        cpu = max((shape.resources.get("CPU", 0.0) for shape in shapes if shape.nodes), default=0.0)
        raise ValueError(
            f"a worker needs {demand.words()} on one node; the largest number of CPUs of a node is {cpu:g}, of GPUs "
            f"{largest:g}, and no node has both: lower threads or --gpus-per-worker, or add a node"
        )
    return demand


class Plan(NamedTuple):
    """The workers that are submitted to a cluster, and a note about a difference from the request."""

    workers: int
    demand: Demand
    note: str = ""


def plan(demand: Demand, requested: int | None, jobs: int) -> Plan:
    """Return the workers for a number of jobs: those requested, else as many as the cluster has room for.

    Workers beyond the room of a cluster that cannot grow would wait for ever, so they are not submitted.
    """
    if requested is not None and requested < 1:
        raise ValueError(f"--num-workers {requested}: at least 1 worker is needed")
    room = max(1.0, capacity(demand, node_shapes()))
    workers = int(min(requested or room, room, jobs))
    note = ""
    if requested is not None and requested > workers:
        limit = (
            f"{jobs} jobs are left" if jobs <= room else f"the cluster has room for {room:.0f} ({demand.words()} each)"
        )
        note = f"{requested} workers requested, {limit}: running {workers}"
    return Plan(workers, demand, note)


def worker_device(demand: Demand) -> torch.device:
    """Return this worker's device; called in the worker.

    Raises:
        RuntimeError: Ray gave this worker a GPU that it cannot use.
    """
    if not demand.gpus:
        return resolve_device("cpu")
    try:
        return resolve_device("cuda")
    except ValueError as error:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        raise RuntimeError(
            f"Ray gave a worker on node {ray.util.get_node_ip_address()} a GPU (CUDA_VISIBLE_DEVICES={visible!r}), and "
            f"torch {torch.__version__} cannot use it: install a CUDA build there, or use --device cpu"
        ) from error
