"""One distillation on many actors: the bits of one process, whichever of them die."""

import os
import signal
import threading
from dataclasses import replace

import pytest
import ray
import torch
from ray.exceptions import ObjectLostError

from raydd.api.distill import distill
from raydd.cli import run as command
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.io.tensor_file import load_tensors
from raydd.methods import complete
from raydd.remote import distillation
from raydd.remote.demand import Demand, NodeShape
from raydd.remote.rollouts import RolloutPool
from raydd.run.experts import open_buffer, plain_workspace, settle
from raydd.run.resolve import bind, needs_experts
from raydd.run.run import Run

pytestmark = pytest.mark.remote

TOY = {
    "ipc": 1,
    "steps": 4,
    "student_steps": 3,
    "span": 1,
    "threads": 1,
    "checkpoint_every": 2,
    "window": {"high": 1},
    "lr": {"images": 20, "lr": 1e-3, "start": 0.05},
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
}


KINDS = {
    "rollouts": {"rollouts": 4},
    "classes, random networks": {"method": "dm", "lr": {"images": 1.0, "lr": 0}, "shards": 4},
    "classes, experts, one step each": {"method": "tgdd", "ipc": 2, "lr": {"images": 0.1, "lr": 0}, "shards": 4},
    "classes, trained networks": {
        "method": "dc",
        "lr": {"images": 0.1, "lr": 0},
        "statistic": {"epochs": 2},
        "shards": 3,
    },
    "batch": {"shards": 4, "ipc": 2, "batch_size": 12},
    "batch, rollouts, labels": {"method": "datm", "rollouts": 2, "shards": 2},
}


def toy(rollouts, **settings):
    return build(DistillConfig, TOY, {"rollouts": rollouts}, settings)


def of_kind(kind):
    """A run whose steps have parts of one kind."""
    return complete(build(DistillConfig, STATISTICS if "classes" in kind else TOY, KINDS[kind]))


STATISTICS = {key: TOY[key] for key in ("ipc", "steps", "threads", "checkpoint_every", "experts")}


def state(out):
    """Every bit that the run goes on from."""
    return load_tensors(out / "checkpoint" / "state.arrow")[0]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(small_buffer, tmp_path_factory):
    """The state after a run in this process, by the kind of its parts."""
    known = {}

    def run(kind):
        if kind not in known:
            out = tmp_path_factory.mktemp("here") / "run"
            distill(of_kind(kind), out, buffer=buffer_for(kind, small_buffer), where=Where(1, device="cpu"))
            known[kind] = state(out)
        return known[kind]

    return run


@pytest.fixture(scope="module")
def here(small_buffer, tmp_path_factory):
    """The state after a run in this process, by its number of rollouts."""
    known = {}

    def run(rollouts):
        if rollouts not in known:
            out = tmp_path_factory.mktemp("here") / str(rollouts)
            distill(toy(rollouts), out, buffer=small_buffer, where=Where(1, device="cpu"))
            known[rollouts] = state(out)
        return known[rollouts]

    return run


def up(pool):
    """A pool's own start, after which its actors have started; else a short run would be over before."""

    def start(task, division):
        all_up(pool.start(task, division))
        return pool

    return start


def all_up(pool):
    """Wait until the actors of a pool have started."""
    assert not ray.wait(list(pool._running), num_returns=len(pool._running), timeout=60)[1]


def run_kind(kind, out, buffer, pool):
    """The steps of a run of one kind whose parts a pool computes."""
    config = of_kind(kind)
    work = plain_workspace(config, torch.device("cpu"))
    experts = None
    if needs_experts(config):
        experts, work = open_buffer(buffer, config, torch.device("cpu"))
    else:
        work = replace(work, transform=fit_transform(config.data.preprocessing, work.dataset))
    return Run(bind(settle(config, experts), out, experts, work, None), up(pool)).steps()


def buffer_for(kind, buffer):
    return buffer if needs_experts(of_kind(kind)) else None


def steps_of(out, buffer, pool, rollouts):
    """The steps of a run whose rollouts a pool computes."""
    experts, work = open_buffer(buffer, toy(rollouts), torch.device("cpu"))
    return Run(bind(toy(rollouts), out, experts, work, None), up(pool)).steps()


@pytest.mark.verb
@pytest.mark.parametrize(
    ("rollouts", "workers"),
    [(3, 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((1, 1), (4, 1), (4, 2)))],
)
def test_actors_come_to_the_bits_of_one_process(ray2, small_buffer, here, tmp_path, rollouts, workers):
    with RolloutPool(workers, Demand(), print) as pool:
        list(steps_of(tmp_path / "run", small_buffer, pool, rollouts))
    assert equal(state(tmp_path / "run"), here(rollouts))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "rollouts" else pytest.mark.slow) for kind in KINDS]
)
def test_any_number_of_actors_gives_the_bits_of_one_process_also_when_one_dies(
    ray2, small_buffer, whole, tmp_path, monkeypatch, kind
):
    for workers in (1, 2):
        with RolloutPool(workers, Demand(), print) as pool:
            list(run_kind(kind, tmp_path / str(workers), small_buffer, pool))
        assert equal(state(tmp_path / str(workers)), whole(kind))
    wait, waits, notes = RolloutPool._ended, [], []

    def killing(pool, block):
        """Kill an actor while it computes a part of a step."""
        if (at_work := [actor for actor, index in pool._running.values() if index is not None]) and not waits:
            waits.append(1)
            ray.kill(at_work[0])
        return wait(pool, block)

    monkeypatch.setattr(RolloutPool, "_ended", killing)
    with RolloutPool(2, Demand(), notes.append) as pool:
        list(run_kind(kind, tmp_path / "killed", small_buffer, pool))
    assert equal(state(tmp_path / "killed"), whole(kind))
    assert any("a worker died: it is replaced" in note for note in notes)


@pytest.mark.rows("workers, share", [(1, 1), (2, 1), (3, 1 / 2), (4, 1 / 2), (6, 1 / 3), (8, 1 / 4), (20, 1 / 4)])
def test_workers_share_the_gpus_of_a_cluster_evenly_four_to_one_at_most(monkeypatch, workers, share):
    shapes = [NodeShape({"CPU": 8.0, "GPU": 1.0})] * 2 + [NodeShape({"CPU": 64.0})]
    monkeypatch.setattr(distillation, "node_shapes", lambda: shapes)
    assert distillation._even_share(workers, 1) == share


@pytest.mark.slow
def test_more_rollouts_are_another_run(here):
    assert not equal(here(1), here(4))


def test_the_command_gives_the_same_set_with_one_worker_and_two(ray2, small_buffer, tmp_path, below):
    seen, ended = set(), threading.Event()

    def watch():
        while not ended.wait(0.05):
            seen.update(words.split("\0")[0].split(".")[0] for words in below(os.getpid()).values() if "ray::" in words)

    watcher = threading.Thread(target=watch)
    watcher.start()
    words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--rollouts", "4", "--json"]
    for workers in ("1", "2"):
        assert "ray::DistillationActor" not in seen  # one worker is this process
        out = tmp_path / workers
        sets = [f"--set={name}={value}" for name, value in (("steps", 3), ("student_steps", 2), ("window.high", 1))]
        assert command([*words, *sets, "--num-workers", workers, "--out", str(out)]) == 0
    ended.set()
    watcher.join()
    assert "ray::DistillationActor" in seen
    one, two = (SyntheticSet.load(tmp_path / workers / "synset.arrow") for workers in ("1", "2"))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.lr, two.lr)
    assert one.recipe["rollouts"] == 4
    assert one.recipe["threads"] == 1


@pytest.mark.slow
def test_an_actor_that_always_dies_ends_the_run_with_a_reason(ray2, small_buffer, tmp_path, monkeypatch):
    class Deadly:
        def __init__(self, task, demand):
            pass

        def ready(self):
            return True

        def compute(self, index, *arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("raydd.remote.rollouts.RolloutActor", Deadly)
    monkeypatch.setattr("raydd.remote.rollouts.DEATHS", 1)
    start = RolloutPool._start_actor
    monkeypatch.setattr(RolloutPool, "_start_actor", lambda pool: (start(pool), all_up(pool)))
    with (
        RolloutPool(1, Demand(), print) as pool,
        pytest.raises(RuntimeError, match="workers died 3 times in a row; check the memory"),
    ):
        list(steps_of(tmp_path / "run", small_buffer, pool, 4))


def test_what_raises_in_an_actor_is_told_in_one_line(ray2, small_buffer, tmp_path, monkeypatch):
    class Broken:
        def __init__(self, task, demand):
            pass

        def ready(self):
            return True

        def compute(self, index, *arguments):
            raise ValueError("the expert's file is broken")

    monkeypatch.setattr("raydd.remote.rollouts.RolloutActor", Broken)
    with (
        RolloutPool(1, Demand(), print) as pool,
        pytest.raises(RuntimeError, match="part 1 of a step failed: the expert's file is broken"),
    ):
        list(steps_of(tmp_path / "run", small_buffer, pool, 2))


@pytest.mark.slow
def test_a_result_that_is_lost_is_made_again(ray2, small_buffer, here, tmp_path, monkeypatch):
    """The actor lives, and what it made is gone with a node."""
    get, lost = ray.get, []

    def losing(reference, **options):
        found = get(reference, **options)
        if isinstance(found, tuple) and len(lost) < 1:
            lost.append(1)
            raise ObjectLostError(reference.hex(), None, "")
        return found

    monkeypatch.setattr("raydd.remote.rollouts.ray.get", losing)
    with RolloutPool(2, Demand(), print) as pool:
        list(steps_of(tmp_path / "run", small_buffer, pool, 4))
    assert len(lost) == 1
    assert equal(state(tmp_path / "run"), here(4))
