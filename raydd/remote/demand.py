"""Demands: what one worker needs of a cluster, whose nodes may not have been started yet.

A demand is submitted to Ray as it is. Ray starts the workers as soon as there are resources, and pending workers are
what makes an autoscaler start nodes. Counts of nodes only limit and describe the demands.
"""

import math
import os
from collections.abc import Callable, Iterable
from time import monotonic, sleep
from typing import Any, NamedTuple

import ray
import torch

from raydd.config.placement import HERE
from raydd.data.workspace import resolve_device
from raydd.remote.node_types import configured_types, refuses

WORKERS_PER_GPU = 4
NOTE_SECONDS, POLL_SECONDS = 30.0, 1.0


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
            needed["GPU"] = 1 / _per_gpu(demand.gpus)
        fits = min((self.resources.get(name, 0.0) / amount for name, amount in needed.items()), default=1.0)
        return int(fits + 1e-9) * self.nodes if fits >= 1 - 1e-9 else 0

    def most(self, name: str) -> float:
        """Return the amount of a resource that one worker could have."""
        return self.resources.get(name, 0.0) if self.nodes and self.resources.get("CPU") else 0.0


def node_shapes() -> list[NodeShape]:
    """Return the living nodes, and the types of nodes that the cluster's autoscaler can start."""
    shapes = [NodeShape(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return shapes + [NodeShape(resources, most, alive=False) for resources, most in configured_types()]


def capacity(demand: Demand, shapes: Iterable[NodeShape]) -> float:
    """Return how many workers a cluster has room for when no other work runs on it."""
    known = list(shapes)  # living nodes may be of the configured types
    return max(sum(shape.room(demand) for shape in known if shape.alive is alive) for alive in (True, False))


def demand_for(
    device: str,
    *,
    cpus: float = 1.0,
    gpus: float | None = None,
    memory: int = 0,
    default_gpus: float = 1.0,
    note: Callable[[str], None] = lambda line: None,
    minutes: float = HERE.max_wait,
) -> Demand:
    """Return the demand of a worker on the connected cluster.

    Waits for a node if there is no node for work yet and it is unknown what the autoscaler can start. On nodes with few
    CPUs per GPU, a worker takes fewer CPUs, or by default more of a GPU, so that no GPU is idle for lack of a CPU.

    Args:
        device: ``cpu``, ``cuda``, or ``auto``: a GPU if a node of the cluster has one, alive or configured.
        cpus: CPUs a worker, of one node.
        gpus: The user's GPUs a worker; None takes ``default_gpus``.
        memory: Bytes of memory that Ray reserves for a worker; 0 reserves none.
        default_gpus: GPUs a worker where the user gives none.
        note: Gets lines about the wait.
        minutes: The limit of the wait.

    Raises:
        ValueError: GPUs are wanted and no node has one, or no kind of node has room for one worker.
        RuntimeError: No node came in time.
    """
    share = default_gpus if gpus is None else gpus
    shapes = _known_shapes(Demand(cpus, 0.0 if device == "cpu" else share, memory), device, note, minutes)
    most = max(shape.most("GPU") for shape in shapes)
    if not most and gpus is not None:
        raise ValueError(f"--gpus-per-worker {gpus:g}: no node of the cluster has a GPU; leave it out, or add one")
    if not most and device == "cuda":
        raise ValueError("--device cuda: no node of the cluster has a GPU; use --device cpu, or add a node with one")
    demand = Demand(cpus, share if device != "cpu" and most else 0.0, memory)
    if not capacity(demand, shapes):
        each = [f"{max(shape.most('CPU') for shape in shapes):g} CPU", f"{most:g} GPU"]
        each += [f"{max(shape.most('memory') for shape in shapes) / 1e9:.1f} GB"] if memory else []
        raise ValueError(
            f"a worker needs {demand.words()} of one node, and no node has that; the most of any node: "
            f"{', '.join(each)}. Lower threads or --gpus-per-worker, use --device cpu, or add a node"
        )
    return _fitted(demand, shapes, gpus is None) if demand.gpus else demand


def _fitted(demand: Demand, shapes: Iterable[NodeShape], usual: bool) -> Demand:
    """Fit a worker with a GPU to the nodes with the fewest CPUs per GPU; ``usual`` says that its share may grow."""
    rooms = (shape.resources for shape in shapes if shape.room(demand))
    cpus_per_gpu = min(resources["CPU"] / resources["GPU"] for resources in rooms)
    gpus = demand.gpus
    if usual and gpus < 1:
        gpus = max(gpus, _rounded(1 / max(1, int(cpus_per_gpu / demand.cpus + 1e-9))))
    cpus = cpus_per_gpu * gpus if gpus >= 1 else cpus_per_gpu / _per_gpu(gpus)
    return demand._replace(cpus=min(demand.cpus, _rounded(cpus)), gpus=gpus)


def _per_gpu(share: float) -> int:
    """Return how many workers with a part of a GPU fit on one."""
    return int(1 / share + 1e-9)


def _rounded(amount: float) -> float:
    """Return an amount of a resource as Ray takes it: whole, or below 1 in steps of 0.0001."""
    return float(int(amount)) if amount >= 1 else int(amount * 10_000 + 1e-6) / 10_000


def _known_shapes(needed: Demand, device: str, note: Callable[[str], None], minutes: float) -> list[NodeShape]:
    """Return the shapes of nodes; wait while no node has CPUs for work and it is unknown what can be started.

    A waiting placement group makes an autoscaler start a node, first with a GPU if ``auto`` may find one.
    """
    shapes, group = node_shapes(), None
    waiting = Waiting(needed, 0, note, minutes)
    try:
        while not any(shape.most("CPU") for shape in shapes):
            if group and device == "auto" and needed.gpus and refuses(needed.bundle):
                waiting.demand = needed = needed._replace(gpus=0.0)
                ray.util.remove_placement_group(group)
                group = None
            group = group or ray.util.placement_group([needed.bundle])
            waiting.check(0)
            sleep(POLL_SECONDS)
            shapes = node_shapes()
    finally:
        if group:
            ray.util.remove_placement_group(group)
    return shapes


class Waiting:
    """Says what a job's workers wait for, and ends a job of which no worker could start in time.

    Args:
        demand: What one worker needs.
        wanted: Workers that the job has use for; 0 while that is unknown.
        note: Gets the lines: at once if the living nodes are too few, else after `NOTE_SECONDS`; then every
            `NOTE_SECONDS`, and in growing intervals as long as some workers are up.
        minutes: How long the job may be without any worker.
    """

    def __init__(
        self, demand: Demand, wanted: int, note: Callable[[str], None], minutes: float = HERE.max_wait
    ) -> None:
        self.demand, self._wanted, self._note, self._minutes = demand, wanted, note, minutes
        self._idle = self._short = monotonic()  # since when no worker is up, and too few are
        self._next, self._pause = math.nan, NOTE_SECONDS

    def check(self, up: int, wanted: int | None = None) -> None:
        """Say that workers are missing, if they are and it is time to; call this again and again.

        Args:
            up: Workers that have started and live.
            wanted: Workers that the job has use for now; None means all those it began with.

        Raises:
            RuntimeError: No worker has been up for the limit.
        """
        now, wanted = monotonic(), self._wanted if wanted is None else wanted
        if up:
            self._idle = now
        if up >= max(1, wanted):
            self._short, self._next, self._pause = now, math.nan, NOTE_SECONDS
            return
        if now - self._idle > 60 * self._minutes:
            raise RuntimeError(
                f"no node has had {self.demand.words()} for a worker for {_duration(now - self._idle)} (--max-wait "
                f"{self._minutes:g}): add a node, or end other work. What is finished is kept: the same command goes "
                "on, with --resume where it has that flag"
            )
        if math.isnan(self._next):
            living = [shape for shape in node_shapes() if shape.alive]
            self._next = now if capacity(self.demand, living) < max(1, wanted) else now + NOTE_SECONDS
        if now >= self._next:
            self._next, self._pause = now + self._pause, 2 * self._pause if up else NOTE_SECONDS
            count = f"{up} of {wanted} workers up" if wanted else "none has joined yet"
            waited = [_duration(now - self._short)] if now - self._short >= 1 else []
            self._note(f"waiting for a node with {self.demand.words()}: {', '.join([count, *waited])}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


class Plan(NamedTuple):
    """The workers that are submitted to a cluster, and a note about a difference from the request."""

    workers: int
    demand: Demand
    note: str = ""


def plan(demand: Demand, requested: int | None, jobs: int, grows: bool = False) -> Plan:
    """Return the workers for a number of jobs: those requested, else as many as the cluster has room for.

    Workers beyond the room of a cluster would wait for ever, so they are submitted only if the cluster ``grows``:
    nodes that nobody has configured may join it.
    """
    if requested is not None and requested < 1:
        raise ValueError(f"--num-workers {requested}: at least 1 worker is needed")
    shapes = node_shapes()
    room = capacity(demand, shapes)
    workers = int(min(requested or max(1, room), math.inf if grows else max(1, room), jobs))
    note = ""
    if requested is not None and requested > min(room, jobs):
        where = "machine" if len(shapes) == 1 and not grows else "cluster"
        limit = f"the {where} has room for {room:.0f} ({demand.words()} each)" if room < jobs else f"{jobs} jobs left"
        rest = "more start as nodes come" if workers > room else f"running {workers}"
        note = f"{requested} workers requested, {limit}: {rest}"
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
