"""A buffer on the nodes of a cluster that do not have its folder."""

import json
import pickle
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch

from raydd.api.distill import distill
from raydd.buffer.arrow_buffer import ArrowBuffer, refresh_manifest
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, write_expert
from raydd.buffer.manifest import read_manifest
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DataConfig, DistillConfig, ExpertConfig
from raydd.data.synset import SyntheticSet
from raydd.numerics.rng import generator
from raydd.remote.buffer_store import RemoteBuffer, share
from raydd.training.expert_worker import ExpertJob, prepare

pytestmark = pytest.mark.remote

CLUSTER = """
    import json
    import sys
    from pathlib import Path
    import ray, torch
    from ray.cluster_utils import Cluster
    from raydd.run.experts import open_buffer
    from raydd.config.schema import DistillConfig
    from raydd.run.resolve import bind
    from raydd.remote.demand import Demand
    from raydd.remote.rollouts import RolloutPool
    from raydd.run.rollout_worker import as_arrays, as_tensors
    from raydd.run.run import Run
    from raydd.config.parsing import build

    if __name__ == "__main__":
        folder, out, store, recipe = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4]), json.loads(sys.argv[5])
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": store},
        )
        cluster.add_node(num_cpus=2, object_store_memory=store)
        ray.init(address=cluster.address, namespace="raydd", log_to_driver=False, logging_level="error")
        values = {"steps": 3, "student_steps": 2, "span": 1, "rollouts": 4, "threads": 1, "window": {"high": 1}}
        config = build(DistillConfig, values, {"experts": recipe})
        buffer, work = open_buffer(folder, config, torch.device("cpu"))
        notes = []
        import raydd.remote.buffer_store
        raydd.remote.buffer_store._sees = lambda node, folder: False
        raydd.remote.buffer_store.SHARE = float(sys.argv[3])
        with RolloutPool(2, Demand(), notes.append) as pool:
            run = Run(bind(config, out, buffer, work, None), pool.start)
            actor, _ = next(iter(pool._running.values()))

            def part(index, *arguments):  # by an actor, too
                return as_tensors(ray.get(actor.compute.remote(index, *map(as_arrays, arguments))))

            pool._part = part
            folder.rename(folder.with_name("away"))  # from here on only what Ray has can be read
            list(run.steps())
        print(json.dumps(notes))
        ray.shutdown()
        cluster.shutdown()
"""


@pytest.fixture
def large(small_buffer):
    return ArrowBuffer(small_buffer)


def same(one, other):
    """Every snapshot, and what lies beside it, to the bit."""
    pairs = [(e, t) for e in one.experts for t in range(one.epochs + 1)]
    return all(torch.equal(one.snapshot(e, t), other.snapshot(e, t)) for e, t in pairs) and all(
        torch.equal(one.norms(e), other.norms(e)) for e in one.experts
    )


def test_on_one_node_the_buffer_is_its_own(ray2, large):
    shared = share(large)
    assert shared.buffer is large
    assert "memory-mapped, once for all processes" in shared.note


@pytest.mark.parametrize("way", ["store", "copy"])
def test_what_is_read_without_the_folder_is_exact(ray2, large, way, tmp_path, monkeypatch):
    folder = tmp_path / "buffer"
    shutil.copytree(large.folder, folder)
    shared = share(ArrowBuffer(folder), way)
    shutil.rmtree(folder)
    assert ("in the object store" in shared.note) == (way == "store")
    assert same(shared.buffer, large)
    found = ray2.get(ray2.remote(_first).remote(ray2.put(shared.buffer)))
    assert torch.equal(torch.tensor(found), large.snapshot(0, 1))


def _first(buffer):
    return buffer.snapshot(0, 1).numpy()


def test_a_folder_that_is_seen_is_mapped_and_neither_stored_nor_copied(ray2, large):
    shared = share(large, "copy").buffer
    assert isinstance(shared, RemoteBuffer)
    assert same(shared, large)
    assert all(shared._table(e)._pages is not None for e in shared.experts)


def test_another_buffer_in_its_place_is_not_taken_for_it(ray2, large, tmp_path):
    folder = tmp_path / "buffer"
    shutil.copytree(large.folder, folder)
    shared = share(ArrowBuffer(folder), "store").buffer
    shutil.copy(expert_path(folder, 1), expert_path(folder, 0))  # as large, other bytes
    assert torch.equal(shared.snapshot(0, 1), large.snapshot(0, 1))


def test_a_copy_cut_short_is_made_again_and_a_full_disk_is_told(ray2, large, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "buffer"
    shutil.copytree(large.folder, folder)
    shared = share(ArrowBuffer(folder), "copy").buffer
    shutil.rmtree(folder)
    copies = tmp_path / "cache" / "copies" / shared._state["digest"]
    copies.mkdir(parents=True)
    expert_path(copies, 0).write_bytes(b"half")
    assert torch.equal(shared.snapshot(0, 1), large.snapshot(0, 1))
    assert expert_path(copies, 0).read_bytes() == expert_path(large.folder, 0).read_bytes()
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(OSError, match=r"0 MB free, and expert 1 of .* set RAYDD_CACHE on that node"):
        shared.snapshot(1, 1)


def test_it_pickles_small_and_carries_no_bytes_of_experts(ray2, large):
    import ray.cloudpickle

    shared = share(large, "copy").buffer
    size = len(ray.cloudpickle.dumps(shared))
    assert size < 20_000 < expert_path(large.folder, 0).stat().st_size
    assert len(pickle.dumps(large)) < 1000


@pytest.mark.parametrize(
    ("share", "way"), [(0.5, "in the object store"), pytest.param(0, "copied to the others'", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_a_node_without_the_folder_distills_to_the_same_bits(tmp_path, small_buffer, share, way):
    folder = tmp_path / "buffer"
    shutil.copytree(small_buffer, folder)
    check_elsewhere(folder, {"network": "MLP", "num_experts": 2, "epochs": 3}, share, 200_000_000, way)


def check_elsewhere(folder, recipe, share, store, way):
    """A node that cannot see the buffer's folder distills from it to what is distilled here; the folder is moved."""
    out = folder.parent
    script = out / "cluster.py"
    script.write_text(textwrap.dedent(CLUSTER))
    words = [sys.executable, script, folder, out / "there", share, store, json.dumps(recipe)]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert way in json.loads(done.stdout.splitlines()[-1])[0]
    values = {"steps": 3, "student_steps": 2, "span": 1, "rollouts": 4, "threads": 1, "window": {"high": 1}}
    config = build(DistillConfig, values, {"experts": recipe})
    here = distill(config, out / "here", buffer=folder.with_name("away"), where=Where(1, device="cpu"))
    there = SyntheticSet.load(out / "there" / "synset.arrow")
    assert torch.equal(here.images, there.images)
    assert torch.equal(here.lr, there.lr)


@pytest.mark.slow
def test_a_buffer_twice_the_object_stores_size_still_distills(tmp_path, cache):
    """Experts of random walks, since only their size matters; Ray refuses stores much smaller than this."""
    store, recipe = 80_000_000, {"network": "ConvNetW128", "num_experts": 8, "epochs": 35}
    job, missing = prepare(ExpertJob(DataConfig(), ExpertConfig(**recipe), 0, tmp_path / "buffer", "cpu"))
    spec = read_manifest(job.folder)[0]
    parameters = sum(slot.numel for slot in spec.layout)
    for index in missing:
        theta = 0.01 * torch.randn(36, parameters, generator=generator(0, index)).cumsum(0)
        write_expert(job.folder, spec, index, ExpertTrajectory(theta, None, range(36), [0.5] * 36, [1.0] * 36))
    refresh_manifest(job.folder)
    assert sum(path.stat().st_size for path in job.folder.iterdir()) > 2 * store
    check_elsewhere(job.folder, recipe, 0.5, store, "copied to the others' disks (more than 50% of an object store")
