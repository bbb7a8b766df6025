"""Every verb on the clusters that people have: a head without CPUs for work, fake GPUs, nodes that come later.

Each case checks which device every worker resolved, and the CUDA_VISIBLE_DEVICES that Ray gave it.
"""

import contextlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
import yaml
from fake_cluster import fake_cluster, scaling_cluster

pytestmark = pytest.mark.remote

LAYOUTS = {
    "scaling from zero": lambda: scaling_cluster({"gpu": (4, 1, 2), "dense": (1, 2, 1), "many": (16, 0, 1)}),
    "gpu nodes": lambda: fake_cluster(((4, 1),)),
    "mixed": lambda: fake_cluster(((1, 2), (4, 0))),
    "no gpu": lambda: fake_cluster(((2, 0),)),
}
NO_GPU = "raydd: --device cuda: no node of the cluster has a GPU; use --device cpu, or add a node with one"


class Verb(NamedTuple):
    """A verb of the matrix.

    Attributes:
        words: Its command line, but for address and device; OUT is the folder of its results, SET a synthetic set,
            SPACE a search space.
        visible: By layout with GPUs, the CUDA_VISIBLE_DEVICES of its workers.
        result: A file of its results.
        together: Workers that wait for each other before they begin.
    """

    words: str
    visible: dict[str, set[str]]
    result: str
    together: int = 1


ANY = {"scaling from zero": {"0", "1"}, "gpu nodes": {"0"}, "mixed": {"0", "1"}}
TRAIN = "--nets MLP --seeds 2 --set epochs=1 --set real_epochs=0"
VERBS = {
    "experts": Verb(
        "experts --network MLP --num-experts 4 --epochs 2 --num-workers 2 --out OUT", ANY, "expert-00003.arrow", 2
    ),
    "distill": Verb("distill --method dm --network MLP --set steps=2 --set threads=1 --out OUT", ANY, "synset.arrow"),
    "shards": Verb(
        "distill --method dm --network MLP --set steps=2 --set threads=1 --shards 2 --num-workers 2 --out OUT",
        ANY,
        "synset.arrow",
        2,
    ),
    "tune": Verb("tune --space SPACE --seeds 1 --epochs 1 --max-concurrent 2 --out OUT", ANY, "best/synset.arrow"),
    "evaluate": Verb(f"evaluate SET {TRAIN} --num-workers 2 --out OUT/scores.json", ANY, "scores.json"),
    "nas": Verb("nas SET --sample 2 --epochs 1 --real none --top 1 --seeds 1 --out OUT", ANY, "nas.json"),
    "continual": Verb(f"continual SET --steps 2 {TRAIN} --out OUT", ANY, "continual.json"),
}
SPACE = {
    "method": "dm",
    "set": {"steps": 2, "threads": 1, "evaluate_epochs": 1, "experts": {"network": "MLP"}},
    "domains": {"lr.images": {"log_uniform": [0.1, 100]}},
    "budget": {"samples": 2},
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in ("mixed", "no gpu") else ()) for name in LAYOUTS],
)
def layout(request):
    """A cluster of each layout, with its name."""
    with LAYOUTS[request.param]() as cluster:
        yield request.param, cluster


on_gpu_nodes = pytest.mark.parametrize("layout", ["gpu nodes"], indirect=True)


@pytest.mark.parametrize("kind", ["auto", pytest.param("cuda", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "experts" else [pytest.mark.slow]) for name in VERBS]
)
def test_every_worker_has_the_device_that_the_cluster_offers(layout, small_synset, tmp_path, name, kind):
    (place, cluster), verb = layout, VERBS[name]
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    places = {"OUT": str(tmp_path / "out"), "SET": str(small_synset), "SPACE": str(tmp_path / "space.yaml")}
    words = [re.sub(r"^(OUT|SET|SPACE)\b", lambda match: places[match[0]], word) for word in verb.words.split()]
    done = cluster.run(tmp_path, *words, "--device", kind, TOGETHER=str(verb.together))
    assert done.own_choices() == [], "a worker chose its device by itself"
    if place == "no gpu" and kind == "cuda":
        assert (done.code, done.err.splitlines()[-1]) == (2, NO_GPU)
        assert done.devices() == set()
        return
    assert done.code == 0, done.err
    devices = {("cuda", one) for one in verb.visible[place]} if place != "no gpu" else {("cpu", None)}
    assert done.devices()
    assert done.devices() <= devices
    if verb.together > 1 and place != "scaling from zero":  # there, the workers may be on two nodes
        assert done.devices() == devices
    assert (tmp_path / "out" / verb.result).is_file()


HOLD = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=1, num_gpus=1)
class Holder:
    def ready(self):
        return True
holder = Holder.remote()
ray.get(holder.ready.remote())
print("holds", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def other_work(cluster):
    """Another job on the cluster, which has its only GPU."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, cluster.address],
        env=cluster.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "holds\n"
    yield
    process.communicate(timeout=30)


def read_until(process, words):
    """The lines of a verb's stderr up to one with these words."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"it ended without {words!r}: {''.join(lines)}")


EXPERTS = ("experts", "--network", "MLP", "--num-experts", "2", "--epochs", "2", "--num-workers", "2")


@on_gpu_nodes
@pytest.mark.slow
def test_workers_wait_for_what_another_job_holds(layout, tmp_path):
    _, cluster = layout
    with other_work(cluster):
        process = cluster.start(tmp_path, *EXPERTS, "--out", str(tmp_path / "out"), "--address", cluster.address)
        err = read_until(process, "waiting for a node with 1 CPU, 0.25 GPU: 0 of 2 workers up")
        assert process.poll() is None
    done = cluster.end(tmp_path, process, err=err)
    assert done.code == 0, done.err
    assert done.devices() == {("cuda", "0")}
    assert (tmp_path / "out/expert-00001.arrow").is_file()


@on_gpu_nodes
def test_a_gpu_that_a_worker_cannot_use_ends_the_verb_with_a_line(layout, tmp_path):
    _, cluster = layout
    done = cluster.run(tmp_path, *EXPERTS, "--out", str(tmp_path / "out"), usable=False)
    assert done.code == 1, done.err
    line = done.err.splitlines()[-1]
    assert line.startswith("raydd: a worker could not start: Ray gave a worker on node ")
    assert "a GPU (CUDA_VISIBLE_DEVICES='0'), and torch " in line
    assert line.endswith(" cannot use it: install a CUDA build there, or use --device cpu")
    assert not (tmp_path / "out/expert-00000.arrow").exists()


@on_gpu_nodes
def test_more_than_any_node_has_is_refused_at_once(layout, tmp_path):
    _, cluster = layout
    done = cluster.run(tmp_path, *EXPERTS, "--gpus-per-worker", "2", "--out", str(tmp_path / "out"))
    assert done.code == 2, done.err
    assert done.err.splitlines()[-1].startswith(
        "raydd: a worker needs 1 CPU, 2 GPU of one node, and no node has that; the most of any node: 4 CPU, 1 GPU. "
    )


@pytest.mark.slow
def test_the_first_node_decides_on_a_cluster_that_nothing_is_known_of(tmp_path):
    """A head alone: a wait with a limit ends in a line; then a node with a GPU joins."""
    with fake_cluster(()) as cluster:
        done = cluster.run(tmp_path, *EXPERTS, "--out", str(tmp_path / "out"), "--max-wait", "0.05")
        assert done.code == 1, done.err
        assert "waiting for a node with 1 CPU, 0.25 GPU: none has joined yet\n" in done.err
        line = done.err.splitlines()[-1]
        assert line.startswith("raydd: no node has had 1 CPU")
        assert "(--max-wait 0.05): add a node" in line
        process = cluster.start(tmp_path, *EXPERTS, "--out", str(tmp_path / "out"), "--address", cluster.address)
        err = read_until(process, "none has joined yet")
        cluster.add_node(4, 1)
        done = cluster.end(tmp_path, process, err=err)
        assert done.code == 0, done.err
        assert done.devices() == {("cuda", "0")}


@pytest.mark.slow
def test_an_autoscaler_whose_types_are_unknown_starts_what_it_has(tmp_path):
    """As on Kubernetes, without any type that has a GPU."""
    with scaling_cluster({"many": (16, 0, 1)}, interval=20) as cluster:  # the note comes before the node
        done = cluster.run(tmp_path, *EXPERTS, "--out", str(tmp_path / "out"), UNKNOWN_TYPES="1")
        assert done.code == 0, done.err
        assert "waiting for a node with 1 CPU: none has joined yet" in done.err, done.err
        assert done.devices() == {("cpu", None)}


@pytest.mark.slow
def test_a_client_of_ray_starts_gpu_nodes(tmp_path):
    """Its driver is outside the cluster; the worker that notices its fake GPU shows that it was given one."""
    with scaling_cluster({"gpu": (4, 1, 1), "many": (16, 0, 1)}) as cluster:
        words = [*EXPERTS, "--out", str(tmp_path / "out"), "--address", cluster.client]
        done = cluster.end(tmp_path, cluster.start(tmp_path, *words, usable=False))
        assert done.code == 1, done.err
        line = done.err.splitlines()[-1]
        assert line.startswith("raydd: a worker could not start: Ray gave a worker on node ")
        assert "a GPU (CUDA_VISIBLE_DEVICES='0')" in line
