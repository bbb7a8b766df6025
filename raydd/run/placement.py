"""Where the work is done, and whether there is room for it."""

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import torch

from raydd.buffer.manifest import read_manifest
from raydd.config.schema import DistillConfig
from raydd.data.workspace import Workspace, open_workspace, resolve_device
from raydd.run.requirements import Need, check_room, kept_sets, of_distillation, of_experts, parameters_of
from raydd.training.expert_worker import ExpertJob


class Where(NamedTuple):
    """Where the work is done.

    Attributes:
        num_workers: Ray workers asked for; as many as fit are started. None takes one a CPU.
        address: Of a Ray cluster; None starts a local Ray.
        device: auto, cpu or cuda.
        gpus_per_worker: GPUs a worker of experts or rollouts: a part such as 0.25, by which four share one GPU, or
            whole ones; None shares the GPUs as the number of workers asks.
    """

    num_workers: int | None = None
    address: str | None = None
    device: str = "auto"
    gpus_per_worker: float | None = None


HERE = Where()
_ADDRESS = re.compile(r"auto|local|[a-z][a-z0-9+.-]*://\S+|[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


def check_workers(where: Where) -> None:
    """Refuse, before Ray is loaded, what no Ray can give.

    Raises:
        ValueError: Fewer than one worker, an impossible share of a GPU, or an address that is none.
    """
    if where.num_workers is not None and where.num_workers < 1:
        raise ValueError(f"--num-workers {where.num_workers}: at least 1 worker is needed")
    if where.address is not None and not _ADDRESS.fullmatch(where.address):
        raise ValueError(f"--address {where.address!r} is no address of Ray: use auto, HOST:PORT or ray://HOST:10001")
    check_share(where.gpus_per_worker, where.device)


def check_share(share: float | None, device: str) -> None:
    """Refuse a number of GPUs a worker that cannot be had.

    Raises:
        ValueError: It is not above 0, is above 1 and not whole, or the device is the CPU.
    """
    if share is None:
        return
    if not 0 < share < math.inf or (share > 1 and share != int(share)):
        raise ValueError(f"--gpus-per-worker {share:g}: give a part of a GPU such as 0.25, or whole GPUs such as 2")
    if device == "cpu":
        raise ValueError(f"--gpus-per-worker {share:g}: the work is done on CPUs; leave it out, or use --device cuda")


def rollers(config: DistillConfig) -> int:
    """Rollouts that this machine's cores can make at once."""
    return max(1, len(os.sched_getaffinity(0)) // (config.threads or 1))


def elsewhere(config: DistillConfig, where: Where) -> bool:
    """Whether a cluster makes the rollouts, and this process only takes the steps."""
    return where.address is not None and config.rollouts > 1


def own_device(config: DistillConfig, where: Where) -> torch.device:
    """This process's; who has a cluster make the rollouts needs no GPU for himself."""
    return resolve_device("auto" if elsewhere(config, where) else where.device)


def distillation_need(config: DistillConfig, work: Workspace, out: Path, where: Where) -> Need:
    """What a run takes; one that this machine has no room for is refused. Other nodes are not looked at."""
    need = of_distillation(config, work, parameters_of(work), kept_sets(config))
    held = sum(path.stat().st_size for path in out.rglob("*.arrow")) if out.is_dir() else 0  # of a run that goes on
    need = need._replace(disk=max(0, need.disk - held))
    alone, cores = where.address is None and work.device.type == "cpu", rollers(config)
    workers = min(config.rollouts, where.num_workers or cores, cores) if alone else 1
    lighter = "use --set backprop=adjoint" if config.backprop == "full" else "use a smaller --set batch_size"
    remedies = (f"{lighter}, or fewer --num-workers" if workers > 1 else lighter, "name an --out with room")
    asked = need._replace(memory=0) if elsewhere(config, where) else need
    check_room(asked, out, work.device, workers=workers, remedies=remedies)
    return need


def experts_need(job: ExpertJob, missing: int, where: Where, here: bool) -> Need:
    """What training experts takes; refused where this machine, or the disk of a folder here, has no room."""
    plain = job.data.model_copy(update={"preprocessing": "raw01"})  # of all preprocessing the batches are as large
    work = open_workspace(plain, job.experts.network, torch.device("cpu"))
    need = of_experts(job.experts, work, read_manifest(job.folder)[0], missing)
    workers = min(missing, where.num_workers or len(os.sched_getaffinity(0)))
    alone = where.address is None and job.device == "cpu"
    asked = need._replace(memory=need.memory if alone else 0, disk=need.disk if here else 0)
    remedies = ("use fewer --num-workers or a smaller --set experts.batch_size", "name an --out with room")
    check_room(asked, job.folder, work.device, workers=min(workers, len(os.sched_getaffinity(0))), remedies=remedies)
    return need
