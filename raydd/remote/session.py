"""Connect to Ray: the open connection, a given cluster, or a local Ray of our own."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError

from raydd.io.pulse import PULSE
from raydd.io.signals import terminates
from raydd.remote.local import NAMESPACE, local_ray, reload_authentication

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
