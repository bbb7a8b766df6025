"""The memory and disk that a run takes; what cannot fit is refused before it starts.

Shapes: `N` synthetic images, `B` batch, `C H W` image, `P` parameters, `Q` running statistics, `S` student steps.
"""

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydd.buffer.manifest import read_manifest
from raydd.buffer.precision import STORAGES
from raydd.buffer.spec import BufferSpec
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig, ExpertConfig
from raydd.data.workspace import Workspace, open_workspace
from raydd.distillation.setup import tiles_of
from raydd.distillation.trajectory_matching import classification
from raydd.io.memory import format_bytes, system_memory
from raydd.io.paths import existing
from raydd.numerics.flat import FlatModel
from raydd.numerics.unroll import saved_bytes
from raydd.run.resolve import RunContext
from raydd.run.rollout_worker import concurrent_parts
from raydd.training.expert_worker import ExpertJob

FLOAT = 4
OVERHEAD = 16_384
"""Bytes of an expert's file beside its values: schema, layout, checksums."""
RUN_FILES = 65_536
"""Bytes of a run folder beside its images: settings, logs, picture."""


class Need(NamedTuple):
    """Bytes that a run takes: at the device of one worker, a lower bound, and of all files."""

    memory: int
    disk: int

    def words(self) -> str:
        """In one phrase."""
        return f"at least {_size(self.memory)} of memory a worker, {_size(self.disk)} of disk"


def _size(count: float) -> str:
    """Return bytes as text, 1 MB at the least."""
    return format_bytes(max(count, 1e6))


def graph_bytes(loss: Callable[[Tensor], Tensor], theta: Tensor, twice: bool) -> int:
    """Return the bytes that autograd keeps for a step at theta (P,); ``twice`` keeps the gradient's own graph too."""
    theta = theta.detach().clone().requires_grad_()
    with saved_bytes() as saved:
        value = loss(theta)
        _gradient = torch.autograd.grad(value, theta, create_graph=True) if twice else None
        return saved()


def step_bytes(work: Workspace, theta: Tensor, batch: int, twice: bool) -> int:
    """Return the bytes that autograd keeps for a step on a batch: they grow linearly, as from 2 to 3 images."""
    inner, data = classification(FlatModel(work.build)), work.dataset

    def at(count: int) -> int:
        x = torch.zeros(count, data.channels, data.size, data.size, requires_grad=twice)
        return graph_bytes(lambda theta: inner(theta, x, torch.zeros(count, dtype=torch.long)), theta, twice)

    two, three = at(2), at(3)
    return max(0, two + (batch - 2) * (three - two))


def of_distillation(config: DistillConfig, work: Workspace, theta: Tensor, checkpoints: int) -> Need:
    """Return what a distillation takes: the students' path, the graphs held at once, and the files it writes."""
    data = work.dataset
    images = config.ipc * len(data.classes)
    pixels = FLOAT * images * data.channels * data.size**2
    decoded = images * (tiles_of(config) if config.formation.factor > 1 else 1)
    if config.match in ("statistics", "kernel"):  # a student's step shows its bases in one style
        decoded *= max(1, config.formation.styles)
    if config.formation.decode == "bounded":
        decoded = min(decoded, images)  # how many more there are depends on the bound
    batch = min(config.batch_size or decoded, decoded)
    path = graph = 0
    if config.match == "trajectories":
        graphs = config.student_steps if config.backprop == "full" else 1
        path = FLOAT * theta.numel() * (config.student_steps + 1 + 2)
        graph = graphs * step_bytes(work, theta, max(1, batch // config.shards), True)
    elif config.match == "loss":
        through = config.unrolled.window or config.student_steps
        path = FLOAT * theta.numel() * (4 * through + 3)
        graph = (through if config.backprop == "full" else 1) * step_bytes(work, theta, batch, True)
        graph = max(graph, step_bytes(work, theta, config.unrolled.batch_real, False))
    elif config.match == "kernel":
        twice = config.kernel.of == "linearised"
        images_seen = decoded * (2 if twice and config.kernel.mirror and data.flip else 1)
        graph = step_bytes(work, theta, images_seen, twice) + step_bytes(work, theta, config.kernel.batch_real, twice)
        path = 3 * FLOAT * theta.numel() * config.kernel.pool
    elif config.match == "statistics":
        each = decoded // len(data.classes)
        graph = step_bytes(work, theta, max(1, min(each, config.statistic.batch_synthetic or each)), False)
    files = pixels * (6 + checkpoints) + RUN_FILES  # the set, the best, a checkpoint of two states with momenta
    frame = min(pixels // FLOAT, data.channels << 21)
    files += 2 * min(config.steps + 1, 20) * frame  # frames, and their copies in event files
    return Need(path + graph + 4 * pixels, files)


def of_experts(config: ExpertConfig, work: Workspace, spec: BufferSpec, missing: int) -> Need:
    """Return what training experts takes: a step's graph, the optimiser's memory, and the buffer's files."""
    parameters, statistics = (sum(slot.numel for slot in layout) for layout in (spec.layout, spec.buffer_layout))
    rows = config.epochs + 1 if spec.kept is None else len(spec.kept)
    beside = 8 * len(spec.layout) * (rows if spec.kept is None else rows + config.epochs + 1) + 20 * rows
    itemsize = np.dtype(STORAGES[spec.storage].dtype).itemsize
    beside += 16 * rows * (itemsize < FLOAT)  # what the rounding did
    expert = rows * (itemsize * parameters + FLOAT * statistics) + beside + OVERHEAD
    batch = min(config.batch_size, len(work.dataset.train))
    graph = step_bytes(work, torch.zeros(parameters), batch, config.optimizer == "smooth")
    # One more: an expert is written to a temporary file first.
    return Need(graph + 3 * FLOAT * parameters, (missing + 1) * expert)


def check_room(need: Need, folder: Path, device: torch.device, *, workers: int = 1, remedies: tuple[str, str]) -> None:
    """Refuse a run for which this machine has no room; ``remedies`` are those for memory and for disk."""
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
    """Return how many sets a run keeps in ``steps/``: one a score."""
    if not config.keep_scored or config.evaluate_every is None:
        return 0
    return -(-config.steps // config.evaluate_every)


def parameters_of(work: Workspace) -> Tensor:
    """Return zeros in the shape of the network's parameters, (P,)."""
    network: Any = work.build()
    return torch.zeros(sum(p.numel() for p in network.parameters()))


def memory_use(device: torch.device) -> dict[str, float | None]:
    """Return the memory of this process now, in MB, and the most that its tensors took on a GPU; None on the CPU.

    The memory of a process rises to the most that it needed, see `raydd.io.memory`.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        resident = pages * resource.getpagesize() / 1e6
    except OSError:  # not on Linux: the most it has ever been
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    return {"resident_mb": round(resident, 1), "device_mb": None if peak is None else round(peak, 1)}


def concurrent_workers(config: DistillConfig, where: Where) -> int:
    """Return how many workers compute the parts of a step on this machine: as many as its cores run at once."""
    cores = max(1, len(os.sched_getaffinity(0)) // (config.threads or 1))
    return min(concurrent_parts(config), where.num_workers or cores)


def distillation_need(context: RunContext, workers: int) -> Need:
    """Return what a run takes; refuse one whose ``workers`` here do not fit. Other nodes are not checked."""
    config, work, out = context.config, context.work, context.folder
    need = of_distillation(config, work, parameters_of(work), kept_sets(config))
    stored = sum(path.stat().st_size for path in out.rglob("*.arrow")) if out.is_dir() else 0  # of a run that goes on
    need = need._replace(disk=max(0, need.disk - stored))
    workers = workers if work.device.type == "cpu" else 1  # how many share a GPU is not known here
    lighter = "use --set backprop=adjoint" if config.backprop == "full" else "use a smaller --set batch_size"
    remedies = (f"{lighter}, or fewer --num-workers" if workers > 1 else lighter, "name an --out with room")
    check_room(need, out, work.device, workers=workers, remedies=remedies)
    return need


def experts_need(job: ExpertJob, missing: int, where: Where, here: bool) -> Need:
    """Return what training experts takes; refuse it where this machine, or the disk of a local folder, has no room."""
    plain = job.data.model_copy(update={"preprocessing": "raw01"})  # of all preprocessing the batches are as large
    work = open_workspace(plain, job.experts.network, torch.device("cpu"))
    need = of_experts(job.experts, work, read_manifest(job.folder)[0], missing)
    workers = min(missing, where.num_workers or len(os.sched_getaffinity(0)))
    alone = where.address is None and job.device == "cpu"
    checked = need._replace(memory=need.memory if alone else 0, disk=need.disk if here else 0)
    remedies = ("use fewer --num-workers or a smaller --set experts.batch_size", "name an --out with room")
    check_room(checked, job.folder, work.device, workers=min(workers, len(os.sched_getaffinity(0))), remedies=remedies)
    return need
