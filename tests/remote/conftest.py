import os
import signal
import time
from pathlib import Path

import pytest
import torch

from raydd.config.schema import DataConfig, ExpertConfig
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, prepare


@pytest.fixture
def make_job(tmp_path):
    """Makes a buffer's folder and its job: MLPs on digits."""

    def make(name, num_experts=3, epochs=4):
        recipe = ExpertConfig(network="MLP", num_experts=num_experts, epochs=epochs)
        return prepare(ExpertJob(DataConfig(), recipe, 0, tmp_path / name, "cpu"))

    return make


@pytest.fixture
def trained_here(make_job):
    """The bytes of expert files that are trained in this process, without Ray."""

    def train(num_experts, epochs):
        job, missing = make_job("here", num_experts, epochs)
        trainer = ExpertTrainer(job)
        for index in missing:
            trainer.train(index)
        torch.set_num_threads(1)
        return expert_bytes(job.folder)

    return train


@pytest.fixture(name="expert_bytes")
def _expert_bytes():
    return expert_bytes


def expert_bytes(folder):
    """The bytes of every expert file of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("expert-*"))}


@pytest.fixture
def kill_worker():
    """Kills one process of this test's own Ray whose title starts with some words; waits for it to appear."""

    def kill(title, seconds=30.0):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := [pid for pid, words in processes_below(os.getpid()).items() if words.startswith(title)]:
                os.kill(found[0], signal.SIGKILL)
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no process {title!r} in {seconds} s")

    return kill


@pytest.fixture(scope="session", name="below")
def _below():
    return processes_below


def processes_below(root):
    """The processes that one has started, and those that they have: of each its command line."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (status := _read(int(entry.name), "stat")):
            parents[int(entry.name)] = int(status.rsplit(")", 1)[1].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: _read(pid, "cmdline") for pid in sorted(found - {root})}


def _read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:  # it ended
        return ""
