"""A local Ray that only its own user can reach: on loopback, with a random token and a private folder.

By default a local Ray listens on every interface of the machine and has its sockets in a folder open to all users.
A process that reaches such a Ray can run code as its user.
"""

import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import torch
from ray._private import ray_constants

from raydd.io.private import RAY, private_folder, root
from raydd.io.signals import terminate

NAMESPACE = "raydd"
LOOPBACK, TOKEN = "127.0.0.1", "token"
ENDING_SECONDS = 5.0
RAYLET: Any = ray._raylet
CLUSTERS = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
"""Set to 0, it makes Ray's processes bind to loopback; Ray uses it on systems without cluster support."""
DEFAULTS = {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "90"}
"""Defaults that the user's environment may override. Workers have the niceness of the command, because with Ray's
default of 15 they stop beside other work. A busy machine needs more than Ray's 30 seconds to start."""


REMEDIES = {
    "timed out during startup": "the machine is busy: try again, or set RAY_raylet_start_wait_time_s to more seconds",
    "object store memory": "end other programs: a local Ray needs more free memory",
    "No space left": "make room on that disk, or set RAY_TMPDIR to a folder on another one",
    "Too many open files": "raise the limit of open files, such as with `ulimit -n 8192`",
}
"""The remedy for each part of an error message with which Ray does not start."""


@contextmanager
def local_ray(
    note: Callable[[str], None], num_cpus: int | None = None, object_store_memory: int | None = None, **options: Any
) -> Iterator[None]:
    """Start a Ray on this machine that no other user can reach, and stop it after the block.

    Notes go to `note`, other options to `ray.init`.
    """
    folders = root()
    if folders.note:
        note(folders.note)
    with ExitStack() as stack:
        with _one_line_errors():
            folder = stack.enter_context(private_folder(folders.folder))
            stack.callback(_kill, folder)
            large = stack.enter_context(private_folder(folders.large)) if folders.large != folders.folder else None
            # Bind this process's ports to loopback, even if ray was imported earlier with another environment.
            stack.callback(setattr, ray_constants, "ENABLE_RAY_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER)
            ray_constants.ENABLE_RAY_CLUSTER = False
            token = os.open(folder / TOKEN, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(token, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
            settings: dict[str, str | None] = {name: os.environ.get(name, value) for name, value in DEFAULTS.items()}
            settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN), "RAY_AUTH_TOKEN": None}
            with environment(settings | {CLUSTERS: "0"}):
                stack.enter_context(reload_authentication())
                stack.callback(ray.shutdown)
                ray.init(
                    address="local",
                    namespace=NAMESPACE,
                    num_cpus=num_cpus or len(os.sched_getaffinity(0)),
                    num_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,  # those of use to torch
                    object_store_memory=object_store_memory,
                    **options,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder / RAY),
                    object_spilling_directory=large and str(large),
                )
            mode = RAYLET.get_authentication_mode()  # a version of Ray might ignore these settings
            if ray.util.get_node_ip_address() != LOOPBACK or mode != RAYLET.AuthenticationMode.TOKEN:
                raise RuntimeError(f"Ray {ray.__version__} cannot be kept private")
        yield


@contextmanager
def environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables for the block alone; None removes one. Processes started in it inherit them."""
    before = {name: os.environ.get(name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def reload_authentication() -> Iterator[None]:
    """Make Ray read mode and token from the environment before and after the block; it otherwise reads them once."""
    _reload()
    try:
        yield
    finally:
        _reload()


def _reload() -> None:
    RAYLET.Config.initialize("")
    RAYLET.AuthenticationTokenLoader.instance().reset_cache()  # last: threads that are ending may ask for a token


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Convert every error with which Ray does not start into one line with a remedy."""
    try:
        yield
    except SystemExit:  # SIGTERM, as Ray's own handler answers it while it starts
        terminate(signal.SIGTERM, None)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = next((what for words, what in REMEDIES.items() if words in reason), "run `raydd doctor`")
        raise RuntimeError(f"Ray did not start ({reason}); {remedy}") from error


def _kill(folder: Path) -> None:
    """Kill the remaining processes of the Ray in a folder, such as agents and workers that are still starting."""
    end = time.monotonic() + ENDING_SECONDS
    while (left := _processes(folder)) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _processes(folder: Path) -> list[int]:
    """Return the processes that were started with the token of a private folder."""
    token, pids = os.fsencode(f"RAY_AUTH_TOKEN_PATH={folder / TOKEN}\0"), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or it has ended
            if token in (process / "environ").read_bytes():
                pids.append(int(process.name))
    return pids
