"""A distillation on a cluster: a worker runs it on its own node's disk, another one goes on when it dies."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import pytest

from raydd.api.distill import distill
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.cli import run as command
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.io.console import Screen
from raydd.io.stored_folder import stored_copy
from raydd.remote import buffer_copy
from raydd.remote.buffer_store import share
from raydd.remote.demand import Demand, NodeShape
from raydd.remote.distillation import Request, _Driver, _layout
from raydd.remote.distillation_actor import DistillationJob

pytestmark = pytest.mark.remote

MTT = {
    "ipc": 1,
    "steps": 40,
    "student_steps": 3,
    "span": 1,
    "threads": 1,
    "checkpoint_every": 4,
    "checkpoint_seconds": 0.01,  # so that each is saved at once
    "window": {"high": 1},
    "lr": {"images": 20, "lr": 1e-3, "start": 0.05},
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
}
DM = {
    "method": "dm",
    "ipc": 1,
    "steps": 40,
    "threads": 1,
    "checkpoint_every": 4,
    "checkpoint_seconds": 0.01,  # so that each is saved at once
    "evaluate_every": 10,
    "evaluate_epochs": 3,
    "keep_scored": True,
    "data": {"validation": 0.2},
    "experts": {"network": "MLP"},
}
SAME = ("config.yaml", "metrics.jsonl", "checkpoint/state.arrow", "synset.arrow", "synset.png", "steps/000030.arrow")

SCRIPT = """
import json, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster

if __name__ == "__main__":
    out, caches, kills, settings, options = sys.argv[1], Path(sys.argv[2]), *map(json.loads, sys.argv[3:6])
    fast = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    small = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    system = fast | {"health_check_timeout_ms": 500}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small, "_system_config": system})
    names = iter(range(100))

    def add():
        cache = {"RAYDD_CACHE": str(caches / str(next(names)))}
        return cluster.add_node(wait=False, num_cpus=1, object_store_memory=100 * 2**20, env_vars=cache)

    nodes = [add(), add()]
    cluster.wait_for_nodes()
    from raydd.api.distill import distill
    from raydd.config.parsing import build
    from raydd.config.placement import Where
    from raydd.config.schema import DistillConfig
    from raydd.io.console import Screen
    from raydd.remote import distillation
    from raydd.run import events

    notes, workers, steps = [], [], []
    note, show, follow, join = Screen.note, events.Replay.show, distillation._Driver._follow, ray.init

    def setup():
        import ray
        from raydd.remote.rollouts import RolloutPool

        start = RolloutPool.start

        def all_up(pool, task, division):  # else a short run would be over before
            start(pool, task, division)
            ray.wait(list(pool._running), num_returns=len(pool._running), timeout=60)
            return pool

        RolloutPool.start = all_up

    ray.init = lambda **words: join(**words, runtime_env={"worker_process_setup_hook": setup})
    Screen.note = lambda self, text: (notes.append(text), note(self, text))[1]

    def followed(driver, actor):
        workers.append((driver, actor))
        return follow(driver, actor)

    def shown(replay, event):
        if isinstance(event, distillation.Saved):
            steps.append(event.step)
            if kills and event.step >= kills[0][1]:
                driver, actor = workers[-1]
                if (kind := kills.pop(0)[0]) == "worker":
                    ray.kill(actor)
                else:
                    (gone,) = [each for each in nodes if (each.node_id == driver._node) is (kind == "node")]
                    nodes.remove(gone)
                    cluster.remove_node(gone, allow_graceful=False)
                    nodes.append(add())
        return show(replay, event)

    distillation._Driver._follow, events.Replay.show = followed, shown
    config = build(DistillConfig, settings)
    distill(config, out, where=Where(address=cluster.address), **options)
    print(json.dumps({"notes": notes, "workers": len(workers), "steps": steps, "left": kills}))
    cluster.shutdown()
"""


def run(out, caches, settings, kills=(), **options):
    """What the script tells of a run on a cluster of two nodes with caches of their own, and of who was killed."""
    words = [str(out), str(caches), *map(json.dumps, (list(kills), settings, options))]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def files(folder):
    return {name: (folder / name).read_bytes() for name in SAME if (folder / name).exists()}


@pytest.fixture
def here(small_buffer, tmp_path):
    """Makes the files of an uninterrupted run in this process."""

    def make(settings):
        buffer = None if "method" in settings else small_buffer
        distill(build(DistillConfig, settings), tmp_path / "here", buffer=buffer, where=Where(1, device="cpu"))
        made = files(tmp_path / "here")
        assert len(made) >= len(SAME) - 1
        return made

    return make


@pytest.mark.verb
def test_a_worker_distills_and_its_files_are_those_of_this_process(ray2, here, tmp_path, capsys):
    """The worker sees the driver's folder no more than any other node does."""
    where, out = Where(address="auto"), tmp_path / "run"
    plain = DM | {"evaluate_every": None, "keep_scored": False}
    distill(build(DistillConfig, plain, {"steps": 20}), out, where=where)
    assert not re.search(r"\bwork/", shown := capsys.readouterr().err)
    assert f"{out / 'config.yaml'} has everything" in shown
    with pytest.raises(ValueError, match=f"^{out} holds a run already; go on with --resume"):
        distill(build(DistillConfig, plain), out, where=where)
    with pytest.raises(ValueError, match=f"^{out} was started with other settings: ipc"):
        distill(build(DistillConfig, plain, {"ipc": 2}), out, where=where, resume=True)
    distill(build(DistillConfig, plain), out, where=where, resume=True)
    assert files(out) == here(plain)
    assert sorted(path.name for path in (out / "frames").iterdir())[-1] == "step-000040.png"
    assert not list(out.rglob("*.tmp"))


def test_an_address_without_a_cluster_is_refused_in_a_line(apart):
    words = ["distill", "--method", "random", "--address", "127.0.0.1:9", "--out", "run"]
    done, folder = apart(sys.executable, "-m", "raydd", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no Ray at --address '127.0.0.1:9'" in line
    assert not list(folder.iterdir())


def test_a_gpu_that_no_node_has_is_refused(ray2, tmp_path):
    with pytest.raises(ValueError, match="--device cuda: no node of the cluster has a GPU"):
        distill(build(DistillConfig, DM), tmp_path / "run", where=Where(address="auto", device="cuda"))


@pytest.mark.rows(
    ("shapes", "requested", "settings", "before", "expected"),
    [
        ([{"CPU": 4}, {"CPU": 2}, {}], "auto", {}, None, (2, 2, 0, 1)),  # all CPUs of the smallest node
        ([{"CPU": 4}, {"CPU": 8, "GPU": 2}], "auto", {}, None, (1, 1, 1, 1)),
        ([{"CPU": 4}, {"CPU": 8, "GPU": 2}], "cpu", {}, None, (4, 4, 0, 1)),
        ([{"CPU": 4}, {"CPU": 8, "GPU": 2}], "cuda", {"threads": 3}, None, (1, 3, 1, 1)),
        ([{"CPU": 4}], "auto", {}, {"threads": 3}, (4, 3, 0, 1)),  # a resumed run has the threads that it had
        ([{}, {"CPU": 2}], "auto", {"shards": 4}, None, (1, 1, 0, 2)),
        ([{}, {"CPU": 8, "GPU": 2}], "auto", {"shards": 2}, None, (1, 1, 1, 2)),
        ([{}, {"CPU": 8, "GPU": 2}], "auto", {"rollouts": 4}, None, (1, 1, 0.5, 4)),
        ([{}, {"CPU": 8, "GPU": 1}], "auto", {"rollouts": 8}, None, (1, 1, 0.25, 4)),
        ([{}, {"CPU": 8}], "cpu", {"rollouts": 8}, {"threads": 2}, (1, 2, 0, 4)),
    ],
)
def test_a_run_asks_for_a_gpu_where_there_is_one_and_for_its_threads_and_workers(
    shapes, requested, settings, before, expected, monkeypatch
):
    for module in ("demand", "distillation"):
        monkeypatch.setattr(f"raydd.remote.{module}.node_shapes", lambda: [NodeShape(shape) for shape in shapes])
    config = build(DistillConfig, {"method": "dm"}, settings)
    request = Request(config, "run", None, False, Where(device=requested))
    threads, layout = _layout(request, build(DistillConfig, before) if before else None, print)
    assert (threads, layout.demand.cpus, layout.demand.gpus, layout.workers) == expected


def test_a_silent_worker_is_noted(capsys):
    job = DistillationJob(
        *(build(DistillConfig, DM), "s3://b/x", "s3://b/x", False, None, True, 1, Demand(2, 1), 0, False, "me", False)
    )
    _Driver(job, None, Screen(), 15.0)._note_silence(11.0)
    assert capsys.readouterr().err == "s3://b/x: no answer from its worker for 11 s\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [MTT | {"rollouts": 2}, DM | {"shards": 2}, MTT],
    ids=["two workers, rollouts", "two workers, shards", "one worker"],
)
def test_workers_and_nodes_die_and_another_goes_on_to_the_same_bytes(small_buffer, here, tmp_path, settings):
    """The other node has the second worker, if there is one; the first one goes on without it."""
    kills = [["worker", 0], ["other", 8], ["node", 20]]
    out = tmp_path / "run"
    options = {} if "method" in settings else {"buffer": str(small_buffer)}
    seen = run(out, tmp_path / "caches", settings, kills, **options)
    assert files(out) == here(settings)
    assert (seen["workers"], seen["left"]) == (3, [])
    notes = [note for note in seen["notes"] if "another one goes on" in note]
    assert [note.partition("; ")[0] for note in notes] == [
        f"{out}: its worker died",
        f"{out}: the node of its worker is lost",
    ]
    parts = settings.keys() & {"rollouts", "shards"}
    assert any("starting 2 workers, each with 1 CPU" in note for note in seen["notes"]) == bool(parts)
    assert any("a worker died: it is replaced" in note for note in seen["notes"]) == bool(parts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "uri"])
def test_random_kills_lose_nothing(small_buffer, s3, here, tmp_path, kind):
    steps = sorted(random.Random(kind).sample(range(36), 7))
    out = tmp_path / "run" if kind == "folder" else s3(f"bucket/{tmp_path.name}")
    seen = run(out, tmp_path / "caches", MTT, [["worker", step] for step in steps], buffer=str(small_buffer))
    assert files(tmp_path / "run" if kind == "folder" else stored_copy(out)) == here(MTT)
    assert (seen["workers"], seen["left"]) == (8, [])
    assert seen["steps"] == sorted(seen["steps"])  # no worker goes back behind a saved checkpoint


@pytest.mark.slow
def test_a_run_at_a_uri_needs_no_folder_of_the_driver(s3, here, tmp_path):
    uri = s3(f"bucket/{tmp_path.name}")
    seen = run(uri, tmp_path / "caches", DM, [["worker", 5], ["node", 15]])
    assert files(stored_copy(uri)) == here(DM)
    assert (seen["workers"], seen["left"]) == (3, [])
    assert not list(tmp_path.glob("run*"))


@pytest.mark.slow
def test_a_worker_that_always_dies_ends_the_run_with_a_reason(ray2, tmp_path, monkeypatch):
    class Deadly:
        def __init__(self, job, files):
            pass

        def start(self):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("raydd.remote.distillation.DistillationActor", Deadly)
    monkeypatch.setattr("raydd.remote.distillation.PAUSE_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match=r"run: its worker died 5 times in a row .*--resume goes on"):
        distill(build(DistillConfig, DM), tmp_path / "run", where=Where(address="auto"))


@pytest.mark.parametrize("transport", ["store", "copy"])
def test_a_node_without_the_buffer_gets_all_of_it(ray2, small_buffer, tmp_path, monkeypatch, transport):
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "buffer"
    shutil.copytree(small_buffer, folder)
    monkeypatch.setattr(buffer_copy, "share", lambda buffer: share(buffer, transport))
    copy, _ = buffer_copy.buffer_copy(folder)
    assert copy.folder() == folder
    folder.rename(tmp_path / "away")
    assert copy.folder().is_relative_to(tmp_path / "cache" / "copies")
    names = sorted(path.name for path in small_buffer.iterdir() if not path.name.startswith("."))
    assert {name: (copy.folder() / name).read_bytes() for name in names} == {
        name: (small_buffer / name).read_bytes() for name in names
    }
    assert ArrowBuffer(copy.folder()).experts == (0, 1)


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
DRIVER = """
import sys
from raydd.cli import main
from raydd.remote import distillation
from raydd.run import events

show = events.Replay.show

def shown(replay, event):
    if isinstance(event, distillation.Saved):
        print(event.step, file=sys.__stdout__, flush=True)
    return show(replay, event)

events.Replay.show = shown
main(sys.argv[1:])
"""


@pytest.fixture
def address():
    """A cluster of its own, which other processes can join."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], text=True, **pipes) as process:
        yield next(line.strip() for line in process.stdout if line.count(":") == 1 and " " not in line.strip())
        process.stdin.close()


@pytest.mark.parametrize("kind", ["folder", pytest.param("uri", marks=pytest.mark.slow)])
def test_a_driver_that_is_killed_resumes(address, s3, tmp_path, kind):
    """Its worker ends with it; the claim at a URI is given up after a while, and that of a folder at once."""
    uri = s3(f"bucket/{tmp_path.name}")
    out = {"folder": str(tmp_path / "run"), "uri": uri}[kind]
    sets = [f"--set={name}={value}" for name, value in DM.items() if isinstance(value, int | float)]
    words = ["distill", "--method", "dm", *sets, "--set=data.validation=0.2", "--network", "MLP"]
    script, seen = [sys.executable, "-c", DRIVER, *words, "--out", out, "--address", address], []
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as driver:
        for line in driver.stdout:
            seen.append(int(line))
            if seen[-1] > 3:
                driver.kill()
    assert 3 < seen[-1] < 40
    done = subprocess.run([*script, "--resume"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= seen[-1]
    assert command([*words, "--out", str(tmp_path / "here")]) == 0
    assert files(tmp_path / "run" if kind == "folder" else stored_copy(uri)) == files(tmp_path / "here")
