"""The ways in which people run raydd: each gives the same bytes, and leaves the program's own Ray as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cluster import fake_cluster

pytestmark = pytest.mark.remote

WORK = """
import sys
import raydd
from raydd.config.placement import Where
from raydd.config.schema import ExpertConfig, ExpertsConfig

def work(out="buffer", **where):
    config = ExpertsConfig(experts=ExpertConfig(network="MLP", num_experts=2, epochs=4))
    raydd.train_experts(config, out, where=Where(num_workers=2, **where))

"""
OWN_RAY = """
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
counter = ray.remote(lambda: 7)
work()
assert ray.get(counter.remote()) == 7, "the program's own Ray is open"
ray.shutdown()
"""
OWN_CLUSTER = """
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
work()
work("again", address=sys.argv[1])
try:
    work("third", address="10.0.0.1:6379")
except ValueError as error:
    print(error)
assert ray.get_runtime_context().gcs_address == sys.argv[1]
"""
LOOP = """
import asyncio

async def cell():
    work()
    await asyncio.sleep(0)

asyncio.run(cell())
"""
THREAD = """
import threading
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
SCRIPTS = {"its own Ray": OWN_RAY, "a running event loop": LOOP, "a thread": THREAD, "no main guard": "work()\n"}


def start(folder, script, *words, stdin=False, **environment):
    """Start a program in a folder of its own, as a file or from its standard input as a notebook does."""
    folder.mkdir()
    (folder / "program.py").write_text(WORK + script)
    with (folder / "program.py").open() if stdin else Path(os.devnull).open() as source:
        return subprocess.Popen(
            [sys.executable, "-" if stdin else "program.py", *words],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def end(process):
    """The output of a program that must end well."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_program_with(name, tmp_path, trained_here, expert_bytes):
    end(start(tmp_path / "work", SCRIPTS[name], stdin=name == "a running event loop"))
    assert expert_bytes(tmp_path / "work/buffer") == trained_here(2, 4)


@pytest.mark.slow
def test_a_program_that_has_joined_a_cluster(tmp_path, trained_here, expert_bytes):
    """Another address is refused, not ignored."""
    with fake_cluster(((2, 0),)) as cluster:
        program = start(tmp_path / "work", OWN_CLUSTER, cluster.address, **cluster.environment)
        line = (
            f"--address '10.0.0.1:6379': this process is connected to {cluster.address}; call ray.shutdown() before\n"
        )
        assert end(program) == line
    assert expert_bytes(tmp_path / "work/buffer") == expert_bytes(tmp_path / "work/again") == trained_here(2, 4)
    assert not (tmp_path / "work/third/expert-00000.arrow").exists()


@pytest.mark.slow
def test_two_jobs_of_slurm_on_a_node(tmp_path, trained_here, expert_bytes):
    """Each has a folder for temporary files whose path is too long for sockets."""
    expected, jobs = trained_here(2, 4), {}
    for name in ("one", "two"):
        place = tmp_path / name.ljust(200 - len(str(tmp_path)) - 1, "x")
        place.mkdir()
        jobs[name] = place, start(tmp_path / f"work-{name}", "work()\n", TMPDIR=str(place), SLURM_JOB_ID=name)
    for name, (place, process) in jobs.items():
        end(process)
        assert len(str(place)) == 200
        assert expert_bytes(tmp_path / f"work-{name}/buffer") == expected
        assert list(place.iterdir()) == []
