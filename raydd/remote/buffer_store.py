"""A buffer on every node of a cluster, stored once per node and read zero-copy by all processes there.

A node that has the buffer's folder maps its files into memory. Other nodes read Ray's object store, which maps each
expert into every process of the node; if the buffer is too large for the store, they map a copy on their own disk.
Copies stay in ``<cache>/copies``, which may be deleted between runs.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.expert_file import expert_path
from raydd.io.arrow_file import ArrowTable, open_arrow, parse_arrow
from raydd.io.files import atomic_path, sweep, write_atomic
from raydd.io.lock import one_at_a_time
from raydd.io.paths import default_cache
from raydd.remote.file_server import FileServer

SHARE = 0.5
"""The share of the smallest node's object store that a buffer may fill."""

Transport = Literal["store", "copy"]


class SharedBuffer(NamedTuple):
    """A buffer for a cluster, and one line about how nodes read it."""

    buffer: ArrowBuffer
    note: str


class RemoteBuffer(ArrowBuffer):
    """An `ArrowBuffer` for nodes that do not have its folder.

    It is pickled as references to the experts, without their bytes. `share` creates it; it works while the process
    that called `share` lives.
    """

    def __init__(self, state: dict[str, Any], files: dict[int, Any], server: Any) -> None:
        self.__dict__ |= state
        self._state, self._files, self._server = state, files, server
        self._tables = {}

    def __reduce__(self) -> Any:
        return RemoteBuffer, (self._state, self._files, self._server)

    def _open_table(self, expert: int) -> ArrowTable:
        path, size = expert_path(self.folder, expert), self._state["sizes"][expert]
        if path.is_file() and path.stat().st_size == size:
            table = open_arrow(path)
            if table.metadata["checksum"] == self._state["checksums"][expert]:
                return table
        if self._files:
            return parse_arrow(ray.get(self._files[expert]), f"expert {expert} of {self.folder}")
        copies = self.copies
        copies.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(copies):
            sweep(copies)  # of processes that were killed while they copied
            self._copy_file(expert, expert_path(copies, expert), size)
        return open_arrow(expert_path(copies, expert))

    @property
    def copies(self) -> Path:
        """This node's folder for copies of the experts."""
        return default_cache() / "copies" / str(self._state["digest"])

    def copy_experts(self, folder: Path) -> None:
        """Copy all experts' files to a folder of this node, except those that are there."""
        for expert, size in self._state["sizes"].items():
            path = expert_path(folder, expert)
            if not self._files:
                self._copy_file(expert, path, size)
            elif not (path.is_file() and path.stat().st_size == size):
                write_atomic(path, ray.get(self._files[expert]).tobytes())

    def _copy_file(self, expert: int, path: Path, size: int) -> None:
        """Copy an expert's file to this node's disk in chunks, unless it is there."""
        if path.is_file() and path.stat().st_size == size:
            return
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise OSError(
                f"{path.parent} has {free / 1e6:.0f} MB free, and expert {expert} of {self.folder} needs "
                f"{size / 1e6:.0f}; set RAYDD_CACHE on that node to a larger disk"
            )
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            while file.tell() < size:
                file.write(ray.get(self._server.read.remote(expert, file.tell())))


def share(buffer: ArrowBuffer, transport: Transport | None = None) -> SharedBuffer:
    """Return a buffer for the processes of the connected cluster, and a note about how nodes read it.

    Nodes without its folder read the object store (``store``) or files on their own disks (``copy``). None takes the
    store where the buffer fits into `SHARE` of the smallest node's store; a cluster of this node alone needs neither.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    client = ray.util.client.ray.is_connected()  # such a driver is not on a node of the cluster
    others = [node for node in nodes if client or node["NodeID"] != here]
    sizes = {index: expert_path(buffer.folder, index).stat().st_size for index in buffer.experts}
    total = sum(sizes.values())
    name = f"{buffer.folder} ({total / 1e6:.0f} MB)"
    if not others and transport is None:
        return SharedBuffer(buffer, f"{name}: memory-mapped, once for all processes")
    unseen = others if transport else [node for node in others if not _sees(node["NodeID"], buffer.folder)]
    room = min(node["Resources"].get("object_store_memory", 0.0) for node in nodes)
    if transport is None:
        transport = "store" if unseen and total <= SHARE * room else "copy"
    if client and unseen and transport == "copy":
        raise ValueError(
            f"{name} is too large for the cluster's object store, and a driver outside the cluster cannot serve "
            "copies; submit it as a job, or use a buffer at a URI"
        )
    state = _state(buffer, sizes)
    if transport == "store":
        files = {
            index: ray.put(np.asarray(np.memmap(expert_path(buffer.folder, index), np.uint8, mode="r")))
            for index in sizes
        }
        return SharedBuffer(
            RemoteBuffer(state, files, None), f"{name}: in the object store ({room / 1e6:.0f} MB a node)"
        )
    paths = {index: expert_path(buffer.folder, index).absolute() for index in sizes}
    affinity = NodeAffinitySchedulingStrategy(here, soft=False)
    options = {"num_cpus": 0, "max_concurrency": 4, "max_restarts": -1, "max_task_retries": -1}
    server = ray.remote(FileServer).options(scheduling_strategy=affinity, **options).remote(paths)
    ray.get(server.ready.remote())
    why = (
        f"memory-mapped on {len(nodes) - len(unseen)} of {len(nodes)} nodes, copied to the others' disks (more than "
        f"{SHARE:.0%} of an object store of {room / 1e6:.0f} MB)"
        if unseen
        else f"memory-mapped on all {len(nodes)} nodes, which have its folder"
    )
    return SharedBuffer(RemoteBuffer(state, {}, server), f"{name}: {why}")


def _state(buffer: ArrowBuffer, sizes: dict[int, int]) -> dict[str, Any]:
    checksums = {index: open_arrow(expert_path(buffer.folder, index)).metadata["checksum"] for index in sizes}
    known = json.dumps([buffer.spec.to_json(), checksums], sort_keys=True)
    names = ("spec", "experts", "epochs", "parameters", "layout", "kept")
    own = {name: getattr(buffer, name) for name in names} | {"folder": buffer.folder.absolute()}
    digest = hashlib.sha256(known.encode()).hexdigest()[:16]
    return own | {"sizes": sizes, "checksums": checksums, "digest": digest}


def _sees(node: str, folder: Path) -> bool:
    """Return whether a node has the same manifest in this folder."""
    manifest = (folder / "manifest.json").absolute()
    remote_digest = ray.remote(_digest_of).options(
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)
    )
    return bool(ray.get(remote_digest.remote(manifest)) == _digest_of(manifest))


def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
