"""Experts on a cluster of several nodes, one of which is taken away: the same bytes as by one worker.

The cluster is of Ray's own processes on this machine. A node where `RAYDD_EXPERTS_STREAM` is set stands for one
that does not see the driver's folder: what it trains comes through Ray.
"""

import json
import subprocess
import sys

import pytest

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.verification import verify

pytestmark = pytest.mark.remote

SCRIPT = """
import json, logging, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from raydd.remote import expert_pool
from raydd.config.placement import Where
from raydd.config.schema import DataConfig, ExpertConfig
from raydd.remote.experts import train_missing
from raydd.training.expert_worker import ExpertJob, prepare

folder, (experts, epochs, patience), (nodes, gone) = sys.argv[1], map(int, sys.argv[2:5]), map(json.loads, sys.argv[5:])
fast = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
small = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, **small, "_system_config": fast | {"health_check_timeout_ms": 500}},
)

def add(kind):
    sent = {"env_vars": {"RAYDD_EXPERTS_STREAM": "1"}} if kind == "sends" else {}
    return cluster.add_node(wait=False, num_cpus=1, object_store_memory=100 * 2**20, **sent)

found = [add(kind) for kind in nodes]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)

class Seen(expert_pool.ExpertWriter):
    made = []
    def __init__(self, folder, spec, index):
        super().__init__(folder, spec, index)
        self.index, self.rows = index, 0
        Seen.made.append(self)
    def add(self, piece):
        super().add(piece)
        self.rows += 1

expert_pool.ExpertWriter = Seen
recipe = ExpertConfig(network="MLP", num_experts=experts, epochs=epochs)
job, missing = prepare(ExpertJob(DataConfig(), recipe, 0, Path(folder), "cpu"))
told = {"notes": [], "error": "", "removed": 0}
try:
    for step in train_missing(job, missing, Where(len(nodes), cluster.address, max_wait=patience / 60)):
        if step.note:
            told["notes"].append(step.note)
        if gone and step.epochs and (gone[0] != "sends" or any(0 < writer.rows < epochs for writer in Seen.made)):
            kind, *gone = gone
            place = nodes.index(kind)
            cluster.remove_node(found.pop(place), allow_graceful=False)
            nodes.pop(place)
            told["removed"] += 1
            if gone and gone[0] == "add":
                gone.pop(0), nodes.append("writes"), found.append(add("writes"))
except RuntimeError as error:
    told["error"] = str(error)
told["sent"] = sorted({writer.index for writer in Seen.made})
Path(folder + ".json").write_text(json.dumps(told))
ray.shutdown()
cluster.shutdown()
"""


def run(folder, experts, epochs, nodes, gone, patience=60):
    """What the script tells of a run on these nodes, some of which go one after another."""
    words = [str(folder), str(experts), str(epochs), str(patience), json.dumps(nodes), json.dumps(gone)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(folder.with_suffix(".json").read_text())


def test_a_node_goes_in_mid_run_and_the_bytes_are_those_of_one_worker(tmp_path, trained_here, expert_bytes):
    """Three nodes: the driver's, one that writes in its folder, and one that does not see it and is removed."""
    folder = tmp_path / "buffer"
    told = run(folder, 3, 300, ["writes", "sends"], ["sends"])
    assert (told["error"], told["removed"]) == ("", 1)
    (lost,) = told["sent"][-1:]
    notes = "; ".join(told["notes"])
    assert f"the node of expert {lost} is lost: the expert is trained again elsewhere" in notes
    assert "waiting for a node with 1 CPU: 1 of 2 workers up" in notes
    assert expert_bytes(folder) == trained_here(3, 300)
    assert len(expert_bytes(folder)) == 3
    assert verify(folder) == []
    assert list(folder.glob("*.tmp")) == []


@pytest.mark.slow
def test_nodes_go_one_after_another_and_a_new_one_ends_the_work(tmp_path, trained_here, expert_bytes):
    folder = tmp_path / "buffer"
    told = run(folder, 4, 200, ["sends", "writes", "sends"], ["sends", "writes", "sends", "add"])
    assert (told["error"], told["removed"]) == ("", 3)
    assert "is lost: the expert is trained again elsewhere" in " ".join(told["notes"])
    assert expert_bytes(folder) == trained_here(4, 200)
    assert ArrowBuffer(folder).experts == (0, 1, 2, 3)
    assert verify(folder) == []
    assert list(folder.glob("*.tmp")) == []


@pytest.mark.slow
def test_without_any_node_the_run_ends_with_a_word_and_keeps_what_is_finished(tmp_path, trained_here, expert_bytes):
    folder = tmp_path / "buffer"
    told = run(folder, 2, 200, ["sends"], ["sends"], patience=5)
    assert told["removed"] == 1
    assert told["error"] == (
        "no node has had 1 CPU for a worker for 5 s (--max-wait 0.0833333): add a node, or end other work. "
        "What is finished is kept: the same command goes on, with --resume where it has that flag"
    )
    whole = trained_here(2, 200)
    assert all(whole[name] == found for name, found in expert_bytes(folder).items())
    assert list(folder.glob("*.tmp")) == []
    told = run(folder, 2, 200, ["writes"], [])
    assert (told["error"], expert_bytes(folder)) == ("", whole)
