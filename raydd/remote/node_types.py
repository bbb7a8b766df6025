"""The types of nodes that a cluster's autoscaler can start."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental.internal_kv import _internal_kv_get

from raydd.io.safe_yaml import read_yaml

HEAD = "node:__internal_head__"  # a resource of the head alone
CONFIG = "--autoscaling-config="


class NodeType(NamedTuple):
    """A type of node that the autoscaler can start."""

    resources: dict[str, float]
    most: float  # nodes; infinite if the autoscaler has no limit


def configured_types() -> list[NodeType]:
    """Return the types of nodes that the connected cluster's autoscaler can start, as far as they are known.

    Some providers of clusters report them, and `ray up` leaves a file on the head. On Kubernetes they are unknown.
    """
    reported = list(_in_cluster(_reported))
    return reported or list(_from_head(_in_cluster(_address)))


def refuses(bundle: dict[str, float]) -> bool:
    """Return whether no node is started for a placement group of this bundle, because no type has room for it."""
    return bundle in _in_cluster(_refused)


def _in_cluster(read: Callable[[], Any]) -> Any:
    """Call a function; the driver of a Ray client is outside the cluster, so that a task calls it."""
    return ray.get(ray.remote(read).options(num_cpus=0).remote()) if ray.util.client.ray.is_connected() else read()


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _reported() -> list[NodeType]:
    config = state.get_cluster_config()
    return [
        NodeType(
            {name: float(amount) for name, amount in group.resources.items()},
            float("inf") if group.max_count < 0 else float(group.max_count),
        )
        for group in (config.node_group_configs if config else ())
    ]


def _from_head(address: str) -> list[NodeType]:
    """Return the types in the file of the head's autoscaler; a task reads it where the driver is elsewhere."""
    client = ray.util.client.ray.is_connected()
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    if not client and ray.get_runtime_context().get_node_id() in heads:
        return _from_file(address)
    return _by_task(address) if heads else []


@lru_cache(maxsize=1)
def _by_task(address: str) -> list[NodeType]:
    return list(ray.get(ray.remote(_from_file).options(num_cpus=0, resources={HEAD: 0.001}).remote(address)))


def _from_file(address: str) -> list[NodeType]:
    """Return the types in the autoscaler's file of the cluster at an address; called on the head."""
    for process in Path("/proc").glob("[0-9]*"):  # a name behind it would raise where a process ends
        with suppress(OSError, ValueError):  # the process has ended, or is another program
            own = process.stat().st_uid == os.getuid()
            words = (process / "cmdline").read_bytes().decode().split("\0") if own else []
            file = next((word.removeprefix(CONFIG) for word in words if word.startswith(CONFIG)), "")
            if file and f"--gcs-address={address}" in words:
                return types_of(read_yaml(Path(file)))
    return []


def types_of(config: dict[str, Any]) -> list[NodeType]:
    """Return the types of nodes in the configuration of `ray up`, but for the head's."""
    limit = float(config.get("max_workers", 2))
    return [
        NodeType(
            {name: float(amount) for name, amount in node["resources"].items()},
            min(limit, float(node.get("max_workers", limit))),
        )
        for name, node in config["available_node_types"].items()
        if name != config["head_node_type"] and node.get("resources")
    ]


def _refused() -> list[dict[str, float]]:
    """Return the bundles that wait and for which the autoscaler starts nothing."""
    reply = GetClusterStatusReply.FromString(ray._private.worker.global_worker.gcs_client.get_cluster_status())
    groups = reply.autoscaling_state.infeasible_gang_resource_requests
    bundles = [dict(one.resources_bundle) for group in groups for one in group.requests]
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)  # of the first version of the autoscaler
    return bundles + (idle_demands(json.loads(status)) if status else [])


def idle_demands(status: dict[str, Any]) -> list[dict[str, float]]:
    """Return the bundles that an autoscaler has seen, according to its status, if it starts no node."""
    report = status.get("autoscaler_report") or {}
    failed = (report.get("node_availability_summary") or {}).get("node_availabilities")  # tried again later
    starts = [report.get(key) for key in ("active_nodes", "pending_nodes", "pending_launches", "failed_nodes")]
    if not report or failed or any(starts):
        return []
    return [bundle for group, _ in status["load_metrics_report"]["pg_demand"] for bundle, _ in group["bundles"]]
