"""`ray up` on a file whose nodes are this machine's: its commands and mounts, the autoscaler, experts on its worker."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from raydd.config.schema import DataConfig, ExpertConfig
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, prepare

pytestmark = [pytest.mark.remote, pytest.mark.slow]
HERE = Path(__file__).parent


def free_ports(count):
    """Ports that nobody listens to."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def cluster_file(port, client):
    """The shipped file's keys with this machine's commands; no `ray stop`, which would end the others' Ray."""
    head = {"node_config": {}, "max_workers": 0, "resources": {}}  # what stood here, its fake workers would inherit
    start = f"ray start --head --node-ip-address=127.0.0.1 --port={port} --ray-client-server-port={client}"
    start += " --num-cpus=0 --object-store-memory=100000000 --include-dashboard=false --disable-usage-stats"
    return {
        "cluster_name": "here",
        "max_workers": 1,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",
            "module": "bash_provider.make",
            "gcs_address": f"127.0.0.1:{port}",
            "disable_node_updaters": True,
        },
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": head,
            "worker": {
                "node_config": {},
                "min_workers": 1,
                "max_workers": 1,
                "resources": {"CPU": 2, "object_store_memory": 100_000_000},
            },
        },
        "file_mounts": {"~/mounted/token": "~/.ray/auth_token"},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": ["echo initialization >> ~/seen"],
        "setup_commands": ["echo setup >> ~/seen"],
        "head_setup_commands": ["echo head >> ~/seen"],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            f"export RAY_FAKE_CLUSTER=1; {start} --autoscaling-config=~/ray_bootstrap_config.yaml"
        ],
        "worker_start_ray_commands": [],
    }


def processes(home):
    """Those that were started with this folder as their home."""
    mark, found = f"HOME={home}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it ended, or is another user's
                continue
    return found


@pytest.fixture
def home():
    """A home with a token, for the cluster alone; its path is short, as those of sockets must be."""
    folder = Path(tempfile.mkdtemp(prefix="up-", dir="/tmp"))
    (folder / ".ray").mkdir()
    (folder / ".ray/auth_token").write_text("0123456789abcdef" * 4)
    yield folder
    while left := processes(folder):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    shutil.rmtree(folder)


def test_experts_on_a_cluster_that_ray_up_started(home, tmp_path):
    port, client = free_ports(2)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {
        "HOME": str(home),
        "RAY_TMPDIR": str(home),
        "TMPDIR": str(home),
        "PATH": path,
        "PYTHONPATH": str(HERE),
        "RAY_AUTH_MODE": "token",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    (home / "cluster.yaml").write_text(yaml.safe_dump(cluster_file(port, client)))

    def run(*words, **more):
        done = subprocess.run(words, env=env | more, capture_output=True, text=True, timeout=90, check=False)
        return done.returncode, done.stdout + done.stderr

    code, said = run("ray", "up", "-y", "--no-config-cache", str(home / "cluster.yaml"))
    assert code == 0, said
    assert (home / "seen").read_text().split() == ["initialization", "setup", "head"]
    assert (home / "mounted/token").read_text() == (home / ".ray/auth_token").read_text()
    address, end = f"127.0.0.1:{port}", time.monotonic() + 30
    while "0.0/2.0 CPU" not in (status := run("ray", "status", "--address", address)[1]):
        assert time.monotonic() < end, status
    code, said = run("ray", "status", "--address", address, RAY_AUTH_TOKEN="f" * 64)
    assert code != 0
    assert "InvalidAuthToken" in said

    out = tmp_path / "cluster"
    words = ["experts", "--address", address, "--network", "MLP", "--num-experts", "2", "--epochs", "3", "--json"]
    code, said = run("raydd", *words, "--out", str(out))
    assert code == 0, said
    assert json.loads(next(line for line in said.splitlines() if line.startswith("{")))["experts"] == 2
    recipe = ExpertConfig(network="MLP", num_experts=2, epochs=3)
    job, missing = prepare(ExpertJob(DataConfig(), recipe, 0, tmp_path / "here", "cpu"))
    trainer = ExpertTrainer(job)
    for index in missing:
        trainer.train(index)
    names = sorted(path.name for path in out.glob("expert-*"))
    assert names == ["expert-00000.arrow", "expert-00001.arrow"]
    assert all((out / name).read_bytes() == (job.folder / name).read_bytes() for name in names)
