"""Experts by Ray actors: the same bytes whoever trains them and whatever dies."""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from ray.exceptions import ActorDiedError

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.mirror import local_folder
from raydd.buffer.verification import verify
from raydd.cli import run
from raydd.config.placement import Where
from raydd.io.files import sweep
from raydd.io.filesystem import open_store
from raydd.io.uri import public_uri
from raydd.remote.demand import Demand, NodeShape, Plan
from raydd.remote.expert_pool import ExpertPool, _Worker
from raydd.remote.experts import Progress, train_missing

pytestmark = pytest.mark.remote
ANYWHERE = Where(address="a:1")


@pytest.mark.verb
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.integration), 2])
def test_bytes_are_the_same_with_any_workers_and_without_ray(ray2, make_job, trained_here, expert_bytes, workers):
    job, missing = make_job("ray")
    steps = list(train_missing(job, missing, Where(workers)))
    assert expert_bytes(job.folder) == trained_here(3, 4)
    assert len(expert_bytes(job.folder)) == 3
    assert verify(job.folder) == []
    assert ArrowBuffer(job.folder).experts == (0, 1, 2)
    assert steps[0] == Progress(0, 3, 0, 12, 0.0, "")
    assert steps[-1][:4] == (3, 3, 12, 12)
    assert [step.done for step in steps] == sorted(step.done for step in steps)


def test_workers_that_do_not_see_the_folder_send_what_they_train(
    ray2, make_job, trained_here, expert_bytes, monkeypatch
):
    """Another node may have a folder of that name: what the driver put there is not what they find."""

    @contextmanager
    def elsewhere(folder):
        yield folder / "manifest.json", "of another disk"

    monkeypatch.setattr("raydd.remote.expert_pool._token", elsewhere)
    job, missing = make_job("ray")
    steps = list(train_missing(job, missing, Where(2)))
    assert steps[-1][:4] == (3, 3, 12, 12)
    assert expert_bytes(job.folder) == trained_here(3, 4)
    assert verify(job.folder) == []
    assert list(job.folder.glob("*.tmp")) == []


def test_a_buffer_in_a_store_is_made_and_extended(ray2, s3, trained_here, expert_bytes, capfd, monkeypatch):
    """Workers put what they finish; the second run trains what is missing and no more."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    place = s3("bucket/experts")
    words = ["experts", "--network", "MLP", "--epochs", "4", "--num-workers", "2", "--json"]
    for total in (2, 3, 3):
        assert run([*words, "--num-experts", str(total), "--out", place]) == 0
        out, err = capfd.readouterr()
        assert "s3cret" not in out + err
        found = json.loads(out)
        assert (found["experts"], found["outputs"]) == (total, {"buffer": public_uri(place)})
        entries = json.loads(open_store(place).read("manifest.json"))["experts"]
        assert [entry["index"] for entry in entries] == [*range(total)]
        assert all(0 < entry["accuracy"] < 1 for entry in entries)
    assert "all 3 experts are there" in err
    folder = local_folder(place)
    assert expert_bytes(folder) == trained_here(3, 4)
    assert verify(folder) == []
    assert sorted(open_store(place).names())[-2:] == ["manifest.json", "preprocessing.arrow"]


def test_gpus_that_nobody_has_are_refused(ray2, make_job):
    job, missing = make_job("ray")
    with pytest.raises(ValueError, match=r"^--gpus-per-worker 0\.25: no node of the cluster has a GPU; leave it out"):
        list(train_missing(job, missing, Where(1, gpus_per_worker=0.25)))
    with pytest.raises(ValueError, match=r"^--device cuda: no node of the cluster has a GPU; use --device cpu"):
        list(train_missing(job._replace(device="cuda"), missing, Where(1, "auto")))


@pytest.fixture
def pool(make_job, monkeypatch):
    """A pool without Ray, and a function that adds a worker on a node."""
    job, _ = make_job("pool")
    made = ExpertPool(job, None, Plan(2, Demand()))
    monkeypatch.setattr("raydd.remote.expert_pool.ray.kill", lambda actor: None)
    monkeypatch.setattr("raydd.remote.expert_pool._alive_nodes", lambda: {"here"})

    def worker(node, index):
        made._workers.append(_Worker(None, node=node, index=index))
        return made._workers[-1]

    return made, worker


@pytest.mark.parametrize(("node", "times", "kind"), [("here", 3, "worker"), ("gone", 10, "node")])
@pytest.mark.slow
def test_an_expert_is_not_begun_for_ever(pool, node, times, kind):
    """Lost nodes are borne longer than lost workers, which may be the expert's own doing."""
    made, worker = pool
    for _ in range(times - 1):
        made._handle_loss(worker(node, 4), ActorDiedError())
    assert made._queue == [4] * (times - 1)
    assert made.take_note().count("; ") == times - 2
    assert made.take_note() == ""
    made._handle_loss(worker(node, 5), ActorDiedError())  # each expert has its own count
    with pytest.raises(
        RuntimeError, match=rf"^expert 4: its {kind} died {times} times; [^\n]*Finished experts are kept"
    ):
        made._handle_loss(worker(node, 4), ActorDiedError())
    assert made._workers == []


@pytest.mark.slow
def test_workers_that_never_start_end_the_run(pool):
    made, worker = pool
    for _ in range(9):
        made._handle_loss(worker("", -1), ActorDiedError())
    assert made.take_note() == ""
    with pytest.raises(RuntimeError, match=r"^10 workers died at their start: "):
        made._handle_loss(worker("", -1), ActorDiedError())


def test_a_pool_grows_with_the_cluster_unless_workers_are_requested(make_job, monkeypatch):
    job, missing = make_job("pool", num_experts=20)
    now, nodes = [0.0], [NodeShape({"CPU": 2.0})]
    monkeypatch.setattr("raydd.remote.expert_pool.monotonic", lambda: now[0])
    monkeypatch.setattr("raydd.remote.demand.node_shapes", lambda: nodes)
    pools = {where: ExpertPool(job, None, Plan(2, Demand()), where) for where in (Where(), Where(2, "a:1"), ANYWHERE)}
    for pool in pools.values():
        pool._queue = list(missing)
    nodes += [NodeShape({"CPU": 16.0})]
    assert {pool._wanted() for pool in pools.values()} == {2}
    now[0] += 31
    assert {where: pool._wanted() for where, pool in pools.items()} == {Where(): 2, Where(2, "a:1"): 2, ANYWHERE: 18}
    del nodes[-1], pools[ANYWHERE]._queue[10:]
    now[0] += 31
    assert pools[ANYWHERE]._wanted() == 10, "lost nodes may come back"


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_expert_has_the_same_bytes(
    ray2, make_job, trained_here, expert_bytes, kill_worker
):
    job, missing = make_job("ray", 2, 150)
    notes, killed = [], None
    for step in train_missing(job, missing, Where(1)):
        notes.append(step.note)
        if killed is None and 0 < step.epochs < 150:
            killed = kill_worker("ray::ExpertActor")
    assert killed is not None, "no expert was seen in mid-run"
    assert [note for note in notes if note] == ["the worker of expert 0 died: the expert is trained again"]
    assert expert_bytes(job.folder) == trained_here(2, 150)
    assert verify(job.folder) == []


def test_an_expert_that_cannot_be_trained_fails_in_one_line_and_the_others_stay(ray2, make_job, expert_bytes):
    """The second expert's file cannot be written: its name is taken by a folder."""
    job, missing = make_job("ray", 3)
    (job.folder / "expert-00001.arrow").mkdir()
    with pytest.raises(RuntimeError, match=r"^expert 1 failed: .*expert-00001.arrow[^\n]*$"):
        list(train_missing(job, missing, Where(1)))
    assert (job.folder / "expert-00000.arrow").is_file()


EXPERTS = 16
"""So many that a fast machine does not finish them while a driver ends."""


def start(folder, workers):
    words = [sys.executable, "-m", "raydd", "experts", "--network", "MLP", "--epochs", "60"]
    words += ["--num-experts", str(EXPERTS)]
    words += ["--num-workers", str(workers), "--out", str(folder)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, folder, count):
    """Until so many experts are finished; the process must still run then."""
    end = time.monotonic() + 60
    while len(list(folder.glob("expert-*.arrow"))) < count and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def settled(folder):
    """Contents and times of the finished files, once orphaned workers have ended: no expert of theirs goes on."""
    before, now, end = None, {}, time.monotonic() + 60
    while now != before or list(folder.glob("*.tmp")):
        assert time.monotonic() < end
        before = now
        time.sleep(0.5)
        sweep(folder)
        now = {path.name: path.stat().st_mtime_ns for path in folder.glob("expert-*.arrow")}
    return {name: (time_, (folder / name).read_bytes()) for name, time_ in now.items()}


def test_the_driver_is_interrupted_then_killed_then_ends(tmp_path, trained_here, expert_bytes):
    """Finished experts are kept, as they are; the same command trains only what is missing."""
    folder = tmp_path / "driver"
    process = start(folder, 1)
    wait_for(process, folder, 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    lines = [line for line in err.splitlines() if "training" not in line]
    assert lines == ["raydd: interrupted; the same command goes on (distill and tune: with --resume)"]
    first = settled(folder)
    assert 1 <= len(first) < EXPERTS

    process = start(folder, 1)
    wait_for(process, folder, len(first) + 1)
    process.kill()
    process.communicate(timeout=30)
    second = settled(folder)
    assert len(first) < len(second) < EXPERTS
    assert {name: second[name] for name in first} == first

    process = start(folder, 8)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    trained = int(re.search(rf"training (\d+) of {EXPERTS} experts", err)[1])  # an orphan may have ended one more since
    assert 1 <= trained <= EXPERTS - len(second)
    assert re.search(r"8 workers requested, .*: running \d", err)
    third = settled(folder)
    assert {name: third[name] for name in second} == second
    assert expert_bytes(folder) == trained_here(EXPERTS, 60)
    assert verify(folder) == []
    assert list(folder.glob("*.tmp")) == []
