"""Evaluations on clusters of several nodes: mixed ones, busy ones, and ones that grow or shrink.

The clusters are of Ray's own processes on this machine, with GPUs in name only: workers are told to compute on the CPU.
"""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.remote

SCRIPT = """
import json, logging, os, sys, time
import ray, torch
from ray.cluster_utils import Cluster
from raydd.config.placement import Where
from raydd.config.schema import DataConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Outcome
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.evaluation.protocols import Protocol
from raydd.numerics.rng import generator
from raydd.remote import demand, training_groups
from raydd.remote.train_matrix import device_on_cluster, train_matrix
from raydd.selection.class_sampler import Request
from raydd.selection.starting_images import INITIAL

folder, scene = sys.argv[1:]
demand.NOTE_SECONDS, training_groups.GROW_SECONDS, training_groups.CHECKPOINT_SECONDS = 1.0, 3.0, 0.5
store = {"object_store_memory": 100 * 2**20}
head = {"num_cpus": 0, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head | store)
add = lambda cpus, gpus=0: cluster.add_node(wait=False, num_cpus=cpus, num_gpus=gpus, **store)

def setup():
    import os, torch
    from raydd.data import workspace
    from raydd.remote import demand

    def pretend(name):
        with open(folder + "/devices", "a") as file:
            file.write(f"{name} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getppid()}\\n")
        return torch.device("cpu")

    demand.resolve_device = pretend

def matrix(seeds, epochs):
    data = DataConfig(augment="none")
    work = open_workspace(data, "MLP", torch.device("cpu"))
    images, labels = INITIAL["real"](Request(work.dataset, work.transform, 1, generator(0, "test")))
    synset = SyntheticSet(images, labels, torch.tensor(0.01), work.transform, "digits", work.dataset.classes)
    protocol = Protocol(name="tiny", epochs=epochs, plain_epochs=epochs, real_epochs=1, lr=0.01)
    row = ScoreRow("ten", "distilled", (synset,))
    return Matrix((row,), ("MLP",), range(seeds), protocol, data, device_on_cluster(where, notes.append))

def train(seeds, epochs, act=lambda step: None):
    def show(step):
        if step.note:
            notes.append(step.note)
        act(step)
    start = time.monotonic()
    found = train_matrix(matrix(seeds, epochs), where, show)
    values = {f"{job.seed}": result.value for job, result in found.items() if isinstance(result, Outcome)}
    return {"seconds": time.monotonic() - start, "values": values}

def join():
    cluster.wait_for_nodes()
    environment = {"worker_process_setup_hook": setup}
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)

notes, where, told = [], Where(), {}
if scene == "mixed":
    add(1, 2), add(4)
    join()
    told |= train(6, 2)
elif scene == "busy":
    add(2)
    join()
    class Busy:
        def ready(self):
            return True
    other = [ray.remote(Busy).options(num_cpus=1).remote() for _ in range(2)]
    ray.get([one.ready.remote() for one in other])
    def free(step):
        if len(notes) == 2 and len(other) == 2:
            ray.kill(other.pop())
    told |= train(6, 2, free)
elif scene == "moving":  # a second node joins, and the first one is lost
    first = add(1)
    join()
    nodes = [first]
    def move(step):
        if step.done and len(nodes) == 1:
            nodes.append(add(2))
        workers = open(folder + "/devices").read().split("\\n") if os.path.exists(folder + "/devices") else []
        if nodes[0] and len({line.split()[2] for line in workers if line}) == 2:
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes[0] = None
    told |= train(600, 60, move)
    told["lost"] = nodes[0] is None
told |= {"notes": notes, "devices": open(folder + "/devices").read().split("\\n")[:-1]}
print(json.dumps(told))
ray.shutdown()
cluster.shutdown()
"""


def told(tmp_path, scene):
    """What the script says of a scene."""
    words = [sys.executable, "-c", SCRIPT, str(tmp_path), scene]
    done = subprocess.run(words, capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(line)


@pytest.mark.slow
def test_on_mixed_nodes_the_workers_are_those_that_can_be_placed(tmp_path):
    """One node has 1 CPU and 2 GPUs, the other 4 CPUs and none: half a CPU beside each GPU, and nobody without one."""
    found = told(tmp_path, "mixed")
    assert len(found["values"]) == 6
    assert sorted(line.split()[:2] for line in found["devices"]) == [["cuda", "0"], ["cuda", "1"]]
    assert len({line.split()[2] for line in found["devices"]}) == 1


@pytest.mark.slow
def test_beside_another_job_it_waits_says_so_and_takes_what_is_free(tmp_path):
    """The other job has both CPUs, and gives one back after two lines about the wait."""
    found = told(tmp_path, "busy")
    assert len(found["values"]) == 6
    waits = [note for note in found["notes"] if note.startswith("waiting for a node with 1 CPU: 0 of 2 workers up")]
    assert 2 <= len(waits) <= 20
    assert [line.split()[0] for line in found["devices"]] == ["cpu"]


@pytest.mark.slow
def test_a_node_that_joins_takes_trainings_and_one_that_is_lost_costs_none(tmp_path):
    found = told(tmp_path, "moving")
    assert found["lost"]
    assert len(found["values"]) == 600
    assert len(set(found["values"].values())) > 1
    assert any("workers lost: their trainings go on" in note for note in found["notes"])
