"""Clusters of fake nodes on this machine: a head without CPUs for work, and nodes with any CPUs and GPUs.

A cluster has a home of its own, with a token, and its processes are found by it. Verbs run on it in a process of their
own, whose workers record which device they resolved and compute on the CPU.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Nodes = tuple[tuple[float, float], ...]  # CPUs and GPUs of each node
STORE = 100_000_000  # bytes of a node's object store
QUICK_DEATH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
    "health_check_timeout_ms": 500,
}
SERVE = """
import json, os, sys, time
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
nodes, store, config = map(json.loads, sys.argv[1:])
head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "object_store_memory": store}
cluster, disks = Cluster(initialize_head=True, head_node_args=head | {"_system_config": config}), iter(range(10**6))

def add(cpus, gpus):
    own = {"RAYDD_CACHE": f"{os.environ['HOME']}/disk-{next(disks)}"}  # no node sees another one's
    for left in (2, 1, 0):
        try:
            return cluster.add_node(wait=False, num_cpus=cpus, num_gpus=gpus, object_store_memory=store, env_vars=own)
        except Exception:  # Ray waits half a minute for a node, which a machine with other work may not keep
            if not left:
                raise

def raylets():
    found = {node: node.all_processes["raylet"][0].process for node in list(cluster.worker_nodes)}
    for node in [node for node, process in found.items() if process.poll() is not None]:
        cluster.remove_node(node, allow_graceful=False)
        del found[node]
    return sorted(process.pid for process in found.values())

def left():  # of all jobs that have ended
    ray.init(address=cluster.address, log_to_driver=False)
    own = ray.get_runtime_context().get_job_id()
    jobs = [f"job {job['JobID']}" for job in ray._private.state.jobs() if not job["IsDead"] and job["JobID"] != own]
    alive = [actor for actor in ray._private.state.actors().values() if actor["State"] != "DEAD"]
    actors = [f"{actor['ActorClassName']} of job {actor['JobID']}" for actor in alive]
    groups = [f"placement group {key}" for key, one in placement_group_table().items() if one["state"] != "REMOVED"]
    ray.shutdown()
    return jobs + actors + groups

for cpus, gpus in nodes:
    add(cpus, gpus)
end = time.monotonic() + 300
while len(cluster.global_state._live_node_ids()) < len(cluster.list_all_nodes()):  # more where a late one joins
    assert time.monotonic() < end
    time.sleep(0.1)
print(cluster.address, flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if isinstance(order, list):
        add(*order)
    else:
        print(json.dumps({"raylets": raylets, "left": left}[order]()), flush=True)
"""

# The driver of a verb. Its first argument is the file of records, or "" if workers are to use what they have.
DRIVER = """
import os, sys
import ray
import raydd.cli
import raydd.remote.demand

records, join, together = sys.argv[1], ray.init, int(os.environ.get("TOGETHER", "1"))

def setup():
    import json, os, time
    import torch
    from raydd.data import workspace
    import ray
    from raydd.remote import demand
    from raydd.remote.rollouts import RolloutPool

    def resolve(kind):
        def pretend(name):
            row = {"by": kind, "device": name, "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}
            with open(records, "a") as file:
                file.write(json.dumps(row) + "\\n")
            end = time.monotonic() + 60
            waits = kind == "demand" and "Distillation" not in open("/proc/self/cmdline").read()  # others follow
            while waits and open(records).read().count('"demand"') < together and time.monotonic() < end:
                time.sleep(0.1)  # else a worker that starts first might do all the work
            return torch.device("cpu")
        return pretend

    def all_up(pool, task, division):
        start(pool, task, division)
        ray.wait(list(pool._running), num_returns=len(pool._running), timeout=60)
        return pool

    start, RolloutPool.start = RolloutPool.start, all_up
    demand.resolve_device = resolve("demand")
    workspace.resolve_device = resolve("name")

def init(*words, **options):
    environment = dict(options.pop("runtime_env", None) or {})
    if records:
        environment["worker_process_setup_hook"] = setup
    return join(*words, runtime_env=environment, **options)

ray.init = init
if os.environ.get("UNKNOWN_TYPES"):  # as on Kubernetes, where the head has no file with them
    raydd.remote.node_types._from_file = lambda address: []
raydd.remote.demand.NOTE_SECONDS = 3.0
sys.exit(raydd.cli.run(sys.argv[2:]))
"""


class Done(NamedTuple):
    """How a verb ended, and what its workers recorded."""

    code: int
    out: str
    err: str
    records: list[dict[str, Any]]

    def devices(self) -> set[tuple[str, str | None]]:
        """Return the device of every worker that has a demand, with its CUDA_VISIBLE_DEVICES."""
        return {(row["device"], row["visible"]) for row in self.records if row["by"] == "demand"}

    def own_choices(self) -> list[dict[str, Any]]:
        """Return the records of workers that chose a device by themselves."""
        return [row for row in self.records if row["by"] == "name" and row["device"] != "cpu"]


class FakeCluster(NamedTuple):
    """A cluster that runs."""

    address: str
    home: Path
    environment: Mapping[str, str]
    server: "subprocess.Popen[str] | None" = None  # of a cluster without an autoscaler
    client: str = ""  # the address for Ray Client of a cluster with one

    def add_node(self, cpus: float, gpus: float) -> None:
        """Start one more node, without waiting for it."""
        assert self.server is not None
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps([cpus, gpus]) + "\n")
        self.server.stdin.flush()

    def raylets(self) -> list[int]:
        """Return the process of each node that lives, but for the head's."""
        return [int(pid) for pid in self._ask("raylets")]

    def left(self) -> list[str]:
        """Return what runs on a cluster without an autoscaler: jobs, actors and placement groups."""
        return [str(words) for words in self._ask("left")]

    def _ask(self, order: str) -> Any:
        assert self.server is not None
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, folder: Path, *words: str, usable: bool = True, **environment: str) -> subprocess.Popen[str]:
        """Start a verb on the cluster; its workers can use their GPUs, or cannot."""
        (folder / "records").touch()
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder / "records") if usable else "", *words],
            env={**self.environment, "RAYDD_CACHE": str(folder / "cache"), **environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, folder: Path, process: "subprocess.Popen[str]", seconds: float = 240.0, err: str = "") -> Done:
        """Wait for a verb; ``err`` is what was read of its output before."""
        try:
            out, rest = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, rest = process.communicate()
            raise AssertionError(f"it did not end in {seconds} s: {err}{rest}{out}") from None
        rows = [json.loads(line) for line in (folder / "records").read_text().splitlines()]
        return Done(process.returncode, out, err + rest, rows)

    def run(self, folder: Path, *words: str, usable: bool = True, seconds: float = 240.0, **environment: str) -> Done:
        """Run a verb on the cluster, with its address."""
        process = self.start(folder, *words, "--address", self.address, usable=usable, **environment)
        return self.end(folder, process, seconds)


@contextlib.contextmanager
def fake_cluster(nodes: Nodes, death: Mapping[str, int] = QUICK_DEATH) -> Iterator[FakeCluster]:
    """Start a cluster of a head and some nodes; Ray's settings say when one is dead that does not answer."""
    with _home() as (home, environment):
        words = [sys.executable, "-c", SERVE, *map(json.dumps, (nodes, STORE, death))]
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield FakeCluster(address, home, environment, process)
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


@contextlib.contextmanager
def scaling_cluster(
    types: Mapping[str, tuple[float, float, int]], version: str = "1", interval: int = 1
) -> Iterator[FakeCluster]:
    """Start a head whose autoscaler starts nodes on demand: CPUs, GPUs and the largest number of each type.

    There are two versions of Ray's autoscaler, which looks for demand once every so many seconds.
    """
    with _home() as (home, environment), contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port, client = (one.getsockname()[1] for one in sockets)
        stack.close()
        (home / "cluster.yaml").write_text(yaml.safe_dump(_scaling_file(types, port)))
        started = {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": str(interval),
            "RAY_enable_autoscaler_v2": str(int(version == "2")),
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "f" * 51 + "00000",
        }
        words = ["-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}"]
        words += [f"--ray-client-server-port={client}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"]
        words += [
            f"--object-store-memory={STORE}",
            "--disable-usage-stats",
            f"--autoscaling-config={home}/cluster.yaml",
        ]
        done = subprocess.run(
            [sys.executable, *words], env={**environment, **started}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield FakeCluster(f"127.0.0.1:{port}", home, environment, client=f"ray://127.0.0.1:{client}")


def _scaling_file(types: Mapping[str, tuple[float, float, int]], port: int) -> dict[str, Any]:
    nodes: dict[str, Any] = {"ray.head.default": {"node_config": {}, "max_workers": 0, "resources": {"CPU": 0}}}
    for name, (cpus, gpus, most) in types.items():
        resources = {"CPU": cpus, "GPU": gpus, "object_store_memory": STORE}
        nodes[name] = {
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
            "resources": {key: amount for key, amount in resources.items() if amount},
        }
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"127.0.0.1:{port}",
        "disable_node_updaters": True,
    }
    empty = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    empty += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    return {
        "cluster_name": "fake",
        "max_workers": sum(most for _, _, most in types.values()),
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 5,
        "provider": provider,
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": nodes,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "rsync_filter": [],
        **{key: [] for key in empty},
    }


@contextlib.contextmanager
def _home() -> Iterator[tuple[Path, dict[str, str]]]:
    """A home for one cluster; its path is short, as those of sockets must be. What still runs in it is killed."""
    home = Path(tempfile.mkdtemp(prefix="fake-", dir="/tmp"))
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("0123456789abcdef" * 4)
    own = {"HOME": str(home), "RAY_TMPDIR": str(home), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAYDD_CACHE")}
    try:
        yield home, environment | own | {"TMPDIR": str(home)}
    finally:
        while left := _processes(home):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        shutil.rmtree(home, ignore_errors=True)


def _processes(home: Path) -> list[int]:
    mark, found = f"HOME={home}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended, or is another user's
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
