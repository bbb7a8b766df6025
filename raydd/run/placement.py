"""Where the work is done, and whether there is room for it."""

import os
from pathlib import Path

import torch

from raydd.buffer.manifest import read_manifest
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.data.workspace import Workspace, open_workspace, resolve_device
from raydd.run.requirements import Need, check_room, kept_sets, of_distillation, of_experts, parameters_of
from raydd.training.expert_worker import Job


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


def experts_need(job: Job, missing: int, where: Where, here: bool) -> Need:
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
