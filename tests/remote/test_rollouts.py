"""One distillation on many actors: the same bits as in one process, whoever dies."""

import os
import signal
import threading
import time

import pytest
import torch
from ray.exceptions import ObjectLostError

from raydd.api.distill import distill
from raydd.cli import run as command
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.data.synset import SyntheticSet
from raydd.io.tensor_file import load_tensors
from raydd.remote.rollouts import RolloutPool
from raydd.run.experts import open_buffer
from raydd.run.resolve import bind
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


def toy(rollouts, **settings):
    return build(DistillConfig, TOY, {"rollouts": rollouts}, settings)


def state(out):
    """Every bit that the run goes on from."""
    return load_tensors(out / "checkpoint" / "state.arrow")[0]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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


def steps_of(out, buffer, pool, rollouts, **settings):
    """The steps of a run whose rollouts a pool computes."""
    experts, work = open_buffer(buffer, toy(rollouts), torch.device("cpu"))
    return Run(bind(toy(rollouts, **settings), out, experts, work, None), pool.start).steps()


@pytest.mark.verb
@pytest.mark.parametrize(
    ("rollouts", "workers"),
    [(3, 2), *(pytest.param(*each, marks=pytest.mark.integration) for each in ((1, 1), (4, 1), (4, 2)))],
)
def test_actors_come_to_the_bits_of_one_process(ray2, small_buffer, here, tmp_path, rollouts, workers):
    with RolloutPool(workers, "cpu", print) as pool:
        list(steps_of(tmp_path / "run", small_buffer, pool, rollouts))
    assert equal(state(tmp_path / "run"), here(rollouts))


def test_more_rollouts_are_another_run(here):
    assert not equal(here(1), here(4))


def test_the_command_gives_the_same_set_with_one_worker_and_two(ray2, small_buffer, tmp_path, monkeypatch):
    hired, hire = [], RolloutPool._start_actor
    monkeypatch.setattr(RolloutPool, "_start_actor", lambda self: (hired.append(1), hire(self))[1])
    words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--rollouts", "4", "--json"]
    for workers in ("1", "2"):
        out = tmp_path / workers
        sets = [f"--set={name}={value}" for name, value in (("steps", 3), ("student_steps", 2), ("window.high", 1))]
        assert command([*words, *sets, "--num-workers", workers, "--out", str(out)]) == 0
    assert len(hired) == 2  # one worker is this process
    one, two = (SyntheticSet.load(tmp_path / workers / "synset.arrow") for workers in ("1", "2"))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.lr, two.lr)
    assert one.recipe["rollouts"] == 4
    assert one.recipe["threads"] == 1


def test_an_actor_that_dies_in_mid_step_is_replaced_and_its_part_made_again(
    ray2, small_buffer, here, tmp_path, kill_worker
):
    notes, done = [], []
    with RolloutPool(2, "cpu", notes.append) as pool:
        for step in steps_of(tmp_path / "run", small_buffer, pool, 4):
            done.append(step.step)
            if step.step in (1, 3):
                killer = threading.Thread(target=kill_worker, args=("ray::RolloutWorker",))
                killer.start()
                time.sleep(0.02)
        killer.join()
    assert done == [1, 2, 3, 4]
    assert equal(state(tmp_path / "run"), here(4))
    assert any("a worker died: it is replaced" in note for note in notes)


def test_an_actor_that_always_dies_ends_the_run_with_a_reason(ray2, small_buffer, tmp_path, monkeypatch):
    class Deadly:
        def __init__(self, task, device):
            pass

        def ready(self):
            return True

        def roll(self, leaves, step, attempt, index):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("raydd.remote.rollouts.RolloutWorker", Deadly)
    with (
        RolloutPool(1, "cpu", print) as pool,
        pytest.raises(RuntimeError, match="the worker of rollout 0 died 3 times in one step; check the memory"),
    ):
        list(steps_of(tmp_path / "run", small_buffer, pool, 2))


def test_what_raises_in_an_actor_is_told_in_one_line(ray2, small_buffer, tmp_path, monkeypatch):
    class Broken:
        def __init__(self, task, device):
            pass

        def ready(self):
            return True

        def roll(self, leaves, step, attempt, index):
            raise ValueError("the expert's file is broken")

    monkeypatch.setattr("raydd.remote.rollouts.RolloutWorker", Broken)
    with (
        RolloutPool(1, "cpu", print) as pool,
        pytest.raises(RuntimeError, match="rollout 0 failed: the expert's file is broken"),
    ):
        list(steps_of(tmp_path / "run", small_buffer, pool, 2))


def test_a_result_that_is_lost_is_made_again(ray2, small_buffer, here, tmp_path, monkeypatch):
    """The actor lives, and what it made is gone with a node."""
    get, lost = ray2.get, []

    def losing(reference, **options):
        found = get(reference, **options)
        if isinstance(found, tuple) and len(lost) < 2:
            lost.append(1)
            raise ObjectLostError(reference.hex(), None, "")
        return found

    monkeypatch.setattr("raydd.remote.rollouts.ray.get", losing)
    with RolloutPool(2, "cpu", print) as pool:
        list(steps_of(tmp_path / "run", small_buffer, pool, 4))
    assert len(lost) == 2
    assert equal(state(tmp_path / "run"), here(4))


def test_too_many_threads_for_the_cluster_are_refused(ray2, small_buffer, tmp_path):
    with (
        RolloutPool(1, "cpu", print) as pool,
        pytest.raises(ValueError, match=r"threads = 64: no node has more than \d free CPUs; use --set threads="),
    ):
        list(steps_of(tmp_path / "run", small_buffer, pool, 2, threads=64))
