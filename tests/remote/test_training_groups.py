"""Matrices of which trainings raise, run out of memory, or lose their workers, on one local Ray of two CPUs."""

import json
import os
import signal

import pytest
import torch

from raydd.cli import run
from raydd.config.placement import Where
from raydd.config.schema import DataConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, Scorer, ScoreRow
from raydd.evaluation.protocols import PROTOCOLS, Protocol
from raydd.evaluation.successive_halving import Rungs
from raydd.numerics.rng import generator
from raydd.remote import train_matrix as remote
from raydd.remote.queue_actor import QueueActor
from raydd.remote.train_matrix import train_matrix
from raydd.selection.class_sampler import Request
from raydd.selection.starting_images import INITIAL

pytestmark = pytest.mark.remote
TINY = Protocol(name="tiny", epochs=2, plain_epochs=2, real_epochs=1, lr=0.01)


@pytest.fixture(scope="module")
def synset(cache):
    work = open_workspace(DataConfig(augment="none"), "MLP", torch.device("cpu"))
    images, labels = INITIAL["real"](Request(work.dataset, work.transform, 1, generator(0, "test")))
    return SyntheticSet(images, labels, torch.tensor(0.01), work.transform, "digits", work.dataset.classes)


def failing(synset, log, failures):
    """Sets whose trainings fail while the folder ``log`` has no file ``mended``; each attempt writes its CPUs there."""

    class Failing(SyntheticSet):  # defined here: workers get it by value, and need not import the tests
        failure = ""

        def to(self, device):
            import ray

            if not (log / "mended").exists():
                with (log / self.failure).open("a") as file:
                    file.write(f"{ray.get_runtime_context().get_assigned_resources()['CPU']:g}\n")
                if self.failure == "raises":
                    raise KeyError("a layer")
                if self.failure == "cuda":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
                if self.failure == "cpu":
                    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")
                if self.failure == "host":
                    raise MemoryError
                if self.failure == "alone" and ray.get_runtime_context().get_assigned_resources()["CPU"] < 2:
                    raise MemoryError
            return super().to(device)

    sets = {}
    for number, failure in enumerate(failures, start=1):
        kind = type("Failing", (Failing,), {"failure": failure})
        fields = {name: getattr(synset, name) for name in synset.__dataclass_fields__}
        sets[failure] = kind(**fields | {"images": synset.images / (1 + number)})  # equal sets are one cached training
    return sets


def rows_of(synset, log, counts):
    sets = {"good": synset} | failing(synset, log, [name for name in counts if name != "good"])
    return tuple(
        ScoreRow(name, "distilled", (sets[name],), seeds=tuple(range(count)), requested=name == "good")
        for name, count in counts.items()
    )


@pytest.mark.slow
def test_two_hundred_trainings_of_which_eight_fail(ray2, synset, tmp_path, monkeypatch, capfd):
    """Five raise and three run out of memory, also alone; a fourth has room alone. A second call trains eight."""
    counts = {"good": 191, "raises": 5, "cuda": 1, "cpu": 1, "host": 1, "alone": 1}
    rows = rows_of(synset, tmp_path, counts)
    matrix = Matrix(rows, ("MLP",), range(191), TINY, DataConfig(augment="none"), "cpu")
    work = open_workspace(matrix.data, None, torch.device("cpu"))
    monkeypatch.setattr("raydd.api.evaluate.plan", lambda *_: (matrix, work))
    monkeypatch.setattr("raydd.evaluation.result_cache.default_cache", lambda: tmp_path / "kept")
    synset.save(tmp_path / "synset.arrow")
    words = ["evaluate", str(tmp_path / "synset.arrow"), "--json", "--set", "real_epochs=0"]
    capfd.readouterr()
    assert run(words) == 1
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert {score["name"]: score["networks"] for score in document["scores"]} == {"good": 191, "alone": 1}
    reasons = {(one["name"], one["seed"]): one["reason"] for one in document["missing"]}
    assert reasons == {
        **{("raises", seed): "KeyError: 'a layer'" for seed in range(5)},
        ("cuda", 0): "CUDA out of memory. Tried to allocate 2 GiB, also alone",
        ("cpu", 0): "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to, also alone",
        ("host", 0): "out of memory, also alone",
    }
    assert "8 trainings failed; the same command trains only these" in err
    attempts = {name: (tmp_path / name).read_text().split() for name in counts if name != "good"}
    assert attempts == {"raises": ["1"] * 5} | {key: ["1", "2"] for key in ("cuda", "cpu", "host", "alone")}
    kept = sorted((tmp_path / "kept" / "scores").rglob("*.json"))
    assert len(kept) == 192
    (tmp_path / "mended").touch()
    assert run(words) == 0
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert (document["missing"], sum(score["networks"] for score in document["scores"])) == ([], 200)
    assert "192 of them are cached" in err
    assert len({*(tmp_path / "kept" / "scores").rglob("*.json")} - {*kept}) == 8


@pytest.mark.slow
def test_an_evaluation_whose_trainings_mostly_fail_ends_early(ray2, synset, tmp_path):
    rows = rows_of(synset, tmp_path, {"raises": 30, "good": 30})
    matrix = Matrix(rows, ("MLP",), range(30), TINY, DataConfig(augment="none"), "cpu")
    found = train_matrix(matrix, Where(num_workers=1), lambda step: None)
    attempts = len((tmp_path / "raises").read_text().split())
    assert attempts == 10
    reasons = [failure.reason for failure in found.values()]
    assert len(reasons) == 60
    assert reasons.count("KeyError: 'a layer'") == 10
    assert reasons.count("not run: 10 of the first 10 trainings failed (--max-failed 0.5)") == 50


@pytest.mark.slow
def test_a_killed_worker_costs_only_what_its_training_did_since_its_checkpoint(ray2, synset, tmp_path, monkeypatch):
    """The epochs are counted by their comparisons, one an epoch; the worker is killed in the middle of its training."""
    log, epochs = tmp_path / "epochs", 400

    class Counted(QueueActor):
        def keep_training(self, job, epoch, value):
            with log.open("a") as file:
                file.write(f"{epoch}\n")
            return super().keep_training(job, epoch, value)

        def join(self, worker, actor):
            super().join(worker, actor)
            import ray

            (tmp_path / "pid").write_text(str(ray.get(actor.get_metadata.remote()).pid))

    monkeypatch.setattr(remote, "QueueActor", Counted)
    monkeypatch.setattr("raydd.remote.training_groups.CHECKPOINT_SECONDS", 0.3)
    protocol = PROTOCOLS["mtt"].changed(epochs)
    matrix = Matrix(
        (ScoreRow("ten", "distilled", (synset,)),),
        ("ConvNetW16",),
        range(1),
        protocol,
        DataConfig(augment="dsa"),
        "cpu",
        rungs=Rungs(tuple(range(1, epochs)), 2),
    )
    killed, notes = [], []

    def show(step):
        notes.append(step.note)
        if not killed and log.exists() and len(log.read_text().split()) > epochs // 2:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            killed.append(int(log.read_text().split()[-1]))

    ((job, outcome),) = train_matrix(matrix, Where(num_workers=1), show).items()
    expected = Scorer(matrix).score(job, lambda epoch, value: True)
    assert outcome._replace(seconds=0.0) == expected._replace(seconds=0.0)
    assert isinstance(outcome, Outcome)
    assert job == Job(0, "ConvNetW16", 0)
    assert killed
    run_epochs = [int(word) for word in log.read_text().split()]
    assert sorted({*run_epochs}) == list(range(1, epochs))
    repeated = len(run_epochs) - (epochs - 1)
    assert repeated < epochs // 4, f"killed at {killed}, and {repeated} epochs ran twice"
    assert "1 of 1 workers lost: their trainings go on" in notes
