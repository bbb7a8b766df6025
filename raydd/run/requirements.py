"""How much memory and disk a run takes, said before it starts; what cannot fit is refused.

Shapes: `N` synthetic images, `B` batch, `C H W` image, `P` parameters, `Q` running statistics, `S` student steps.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydd.buffer.precision import STORAGES
from raydd.buffer.spec import BufferSpec
from raydd.config.schema import DistillConfig, ExpertConfig
from raydd.data.workspace import Workspace
from raydd.distillation.recipe import tiles_of
from raydd.distillation.trajectory_recipe import classification
from raydd.io.memory import format_bytes, system_memory
from raydd.io.paths import existing

FLOAT = 4
OVERHEAD = 16_384
"""Bytes of an expert's file beside its values: schema, layout, checksums."""
RUN_FILES = 65_536
"""Bytes of a run folder beside its images: settings, logs, picture."""


class Need(NamedTuple):
    """What a run takes beside what the process holds when it starts.

    Attributes:
        memory: Bytes at the device, of one worker; a lower bound: what it takes for certain.
        disk: Bytes of files in all.
    """

    memory: int
    disk: int

    def words(self) -> str:
        """In one phrase."""
        return f"at least {_size(self.memory)} of memory a worker, {_size(self.disk)} of disk"


def _size(count: float) -> str:
    """Return bytes as text, 1 MB at the least."""
    return format_bytes(max(count, 1e6))


def graph_bytes(loss: Callable[[Tensor], Tensor], theta: Tensor, twice: bool) -> int:
    """The bytes that autograd keeps for one step of a network.

    Args:
        loss: Of theta (P,), a scalar.
        theta: Where to take it, (P,).
        twice: The gradient is differentiated again, so its own graph is kept too.
    """
    kept: dict[int, int] = {}
    held: list[Any] = []  # so that no storage is freed, and another counted under its name

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)
        return tensor

    theta = theta.detach().clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        value = loss(theta)
        if twice:
            held.append(torch.autograd.grad(value, theta, create_graph=True))
    return sum(kept.values())


def step_bytes(work: Workspace, theta: Tensor, batch: int, twice: bool) -> int:
    """The bytes that autograd keeps for one step on a batch of so many images, from steps on one and on two.

    It is a straight line in the batch, since networks treat images alike.
    """
    inner, data = classification(work), work.dataset

    def at(count: int) -> int:
        x = torch.zeros(count, data.channels, data.size, data.size, requires_grad=twice)
        return graph_bytes(lambda theta: inner(theta, x, torch.zeros(count, dtype=torch.long)), theta, twice)

    one, two = at(2), at(3)
    return max(0, one + (batch - 2) * (two - one))


def of_distillation(config: DistillConfig, work: Workspace, theta: Tensor, checkpoints: int) -> Need:
    """What a distillation takes: the students' path, the graphs that are held at once, and the files it writes.

    Args:
        config: The run.
        work: Data set, network, device.
        theta: Parameters of the network (P,).
        checkpoints: Sets of ``steps/`` that will be kept.
    """
    data = work.dataset
    images = config.ipc * len(data.classes)
    pixels = FLOAT * images * data.channels * data.size**2
    seen = images * (tiles_of(config) if config.formation.factor > 1 else 1)
    if config.formation.decode == "bounded":
        seen = min(seen, images)  # how many more there are depends on the bound
    batch = min(config.batch_size or seen, seen)
    path = graph = 0
    if config.match == "trajectories":
        held = config.student_steps if config.backprop == "full" else 1
        path = FLOAT * theta.numel() * (config.student_steps + 1 + 2)
        graph = held * step_bytes(work, theta, batch, True)
    elif config.match == "statistics":
        each = seen // len(data.classes)
        graph = step_bytes(work, theta, max(1, min(each, config.statistic.batch_synthetic or each)), False)
    files = pixels * (6 + checkpoints) + RUN_FILES  # the set, the best, a checkpoint of two states with momenta
    shown = min(pixels // FLOAT, data.channels << 21)
    files += 2 * min(config.steps + 1, 20) * shown  # frames, and their copies in event files
    return Need(path + graph + 4 * pixels, files)


def of_experts(config: ExpertConfig, work: Workspace, spec: BufferSpec, missing: int) -> Need:
    """What training experts takes: a step's graph, the parameters and the optimiser's, and the buffer's files.

    Args:
        config: How they are trained.
        work: Data set, network, device.
        spec: Of the buffer.
        missing: Experts to be trained.
    """
    parameters, statistics = (sum(slot.numel for slot in layout) for layout in (spec.layout, spec.buffer_layout))
    rows = config.epochs + 1 if spec.kept is None else len(spec.kept)
    beside = 8 * len(spec.layout) * (rows if spec.kept is None else rows + config.epochs + 1) + 20 * rows
    itemsize = np.dtype(STORAGES[spec.storage].dtype).itemsize
    beside += 16 * rows * (itemsize < FLOAT)  # what the rounding did
    expert = rows * (itemsize * parameters + FLOAT * statistics) + beside + OVERHEAD
    batch = min(config.batch_size, len(work.dataset.train))
    graph = step_bytes(work, torch.zeros(parameters), batch, config.optimizer == "smooth")
    # One more: an expert is spooled to a file of its own before it is written.
    return Need(graph + 3 * FLOAT * parameters, (missing + 1) * expert)


def check_room(need: Need, folder: Path, device: torch.device, *, workers: int = 1, remedies: tuple[str, str]) -> None:
    """Refuse a run for which this machine has no room.

    Args:
        need: What it takes.
        folder: Where its files go; it need not exist yet.
        device: Where it computes.
        workers: How many of them share this machine's memory.
        remedies: What helps where memory, and where disk is short.

    Raises:
        ValueError: There is too little; both sizes are named.
    """
    if need.memory * workers > (free := free_memory(device)):
        many = f"{workers} workers take" if workers > 1 else "this run takes"
        raise ValueError(
            f"{many} at least {_size(need.memory * workers)} of memory, and {_size(free)} are free; {remedies[0]}"
        )
    if need.disk > (room := shutil.disk_usage(existing(folder)).free):
        raise ValueError(f"{folder} will take {_size(need.disk)}, and its disk has {_size(room)} free; {remedies[1]}")


def free_memory(device: torch.device) -> int:
    """Bytes that a process could still take at a device: on the CPU what the system and its control group leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(system_memory()[0], 1 << 62))  # where nothing is known, nothing is refused


def kept_sets(config: DistillConfig) -> int:
    """Sets that a run keeps in ``steps/``: one a score."""
    if not config.keep_scored or config.evaluate_every is None:
        return 0
    return -(-config.steps // config.evaluate_every)


def parameters_of(work: Workspace) -> Tensor:
    """Zeros in the shape of the network's parameters, (P,)."""
    network: Any = work.build()
    return torch.zeros(sum(p.numel() for p in network.parameters()))
