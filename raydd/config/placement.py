"""Where the work is done: Ray workers, cluster and device, as the command line and scripts give them."""

import math
import re
from typing import Annotated, NamedTuple

from raydd.config.names import TABLES, Named

_ADDRESS = re.compile(r"auto|local|[a-z][a-z0-9+.-]*://\S+|[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


class Where(NamedTuple):
    """Where the work is done.

    Attributes:
        num_workers: Ray workers to start; as many as fit by default, one a CPU.
        address: Address of a running Ray cluster; a local Ray is started by default.
        device: Device of the computation.
        gpus_per_worker: GPUs per worker: a fraction, such as 0.25 where four workers share one GPU, or a whole number;
            by default what suits the work.
        max_wait: Minutes to wait for a free node while no worker runs, before giving up.
        max_failed: End an evaluation early if more than this share of its ended trainings failed, once ten have ended.
    """

    num_workers: int | None = None
    address: str | None = None
    device: Annotated[str, Named("device")] = "auto"
    gpus_per_worker: float | None = None
    max_wait: float = 15.0
    max_failed: float = 0.5


HERE = Where()


def check_workers(where: Where) -> None:
    """Refuse, before Ray is loaded, what no Ray can give.

    Raises:
        ValueError: Fewer than one worker, an impossible share of a GPU, an unknown device, a malformed address, or a
            negative wait.
    """
    if where.num_workers is not None and where.num_workers < 1:
        raise ValueError(f"--num-workers {where.num_workers}: at least 1 worker is needed")
    if where.address is not None and not _ADDRESS.fullmatch(where.address):
        raise ValueError(f"--address {where.address!r} is no address of Ray: use auto, HOST:PORT or ray://HOST:10001")
    if where.device not in TABLES["device"].names:
        raise ValueError(f"--device {where.device!r}: use auto, cpu or cuda")
    if not 0 <= where.max_failed <= 1:
        raise ValueError(f"--max-failed {where.max_failed:g}: give a share of the trainings, from 0 to 1")
    check_share(where.gpus_per_worker, where.device)
    if not where.max_wait >= 0:
        raise ValueError(f"--max-wait {where.max_wait:g}: give minutes such as 15, or inf for no limit")


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
