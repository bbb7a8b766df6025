"""`raydd evaluate` killed in mid-run and started again: nothing is repeated, and the scores are those of one run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from raydd.cli import run
from raydd.config.schema import DataConfig, EvaluateConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import Scorer
from raydd.evaluation.scores import plan
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real

NETWORKS, SEEDS = ("MLP", "LeNet"), 5
SETTINGS = {"epochs": 150, "real_epochs": 3}
TOTAL = 2 * len(NETWORKS) * SEEDS
AGENTS = "ray::DashboardAgent", "ray::RuntimeEnvAgent"  # end by themselves, but a minute after their Ray


@pytest.fixture(scope="module")
def synset(cache, tmp_path_factory):
    """The file of twenty real digits."""
    work = open_workspace(DataConfig(), None, torch.device("cpu"))
    images, labels = real(Request(work.dataset, work.transform, 2, generator(0)))
    path = tmp_path_factory.mktemp("sets") / "synset.arrow"
    SyntheticSet(images, labels, torch.tensor(0.05), work.transform, "digits", work.dataset.classes).save(path)
    return path


@pytest.fixture
def words(synset):
    flags = ["--nets", ",".join(NETWORKS), "--seeds", str(SEEDS), "--baselines", "none", "--device", "cpu", "--json"]
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    return ["evaluate", str(synset), *flags, *settings]


def start(words, cache):
    environment = os.environ | {"RAYDD_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "raydd", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(cache):
    """The kept results: when each was written, and its bytes."""
    found = sorted((cache / "scores").rglob("*.json"))
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in found}


def below(root):
    """A process and all that it started: id, and when it began."""
    found = {int(entry.name): stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    members = {root}
    while more := {pid for pid, now in found.items() if now and now[0] in members} - members:
        members |= more
    return {pid: found[pid][1] for pid in members}


def stat(pid):
    """The parent of a process, and when it began; None where it has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] == "Z" else (int(words[1]), words[19])


def title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def wait(seconds, until, every=0.01):
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(every)


def kill_half_way(process, cache):
    """Kill the driver when half of the results are kept; its workers must end with it."""
    wait(300, lambda: len(files(cache)) >= TOTAL // 2 or process.poll() is not None)
    family = below(process.pid)
    agents = [pid for pid in family if title(pid).startswith(AGENTS)]
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed: give it more epochs"
    for pid in agents:
        os.kill(pid, signal.SIGKILL)

    def left():
        return [pid for pid, began in family.items() if (now := stat(pid)) and now[1] == began]

    wait(60, lambda: not left(), every=0.1)
    assert len(family) > len(agents) > 0
    assert left() == []


def scores(text):
    return {(score["name"], score["network"]): score["values"] for score in json.loads(text)["scores"]}


def undisturbed(synset):
    """The scores of a run that nobody disturbed: one process, without Ray."""
    config = EvaluateConfig(networks=NETWORKS, seeds=SEEDS, baselines=(), **SETTINGS)
    matrix, _ = plan([SyntheticSet.load(synset)], None, config, "cpu")
    scorer = Scorer(matrix)
    return {
        (entry.name, network): [scorer.score(Job(index, network, seed)).value for seed in range(SEEDS)]
        for index, entry in enumerate(matrix.rows)
        for network in NETWORKS
    }


@pytest.mark.slow
@pytest.mark.remote
def test_a_killed_evaluation_goes_on_and_repeats_nothing(words, synset, tmp_path, monkeypatch, capfd):
    cache = tmp_path / "cache"
    kill_half_way(start(words, cache), cache)
    before = files(cache)
    assert TOTAL // 2 <= len(before) < TOTAL

    again = start(words, cache)
    expected = undisturbed(synset)  # meanwhile
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    after = files(cache)
    assert f"evaluating: {TOTAL} trainings" in err
    assert f"{len(before)} of them are cached" in err
    assert {path: after[path] for path in before} == before
    assert len(after) == TOTAL
    assert scores(out) == expected
    assert len({value for values in expected.values() for value in values}) > TOTAL // 3

    monkeypatch.setenv("RAYDD_CACHE", str(cache))
    monkeypatch.setattr("raydd.remote.session._connected", lambda *_: pytest.fail("Ray was started for nothing"))
    assert run(words) == 0
    third = capfd.readouterr()
    assert f"{TOTAL} of them are cached" in third.err
    assert scores(third.out) == expected
    assert files(cache) == after
