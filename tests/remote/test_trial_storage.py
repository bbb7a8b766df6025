"""Searches without a disk that all nodes see: at a URI, and in a folder that only the driver's node has."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from pyarrow.fs import LocalFileSystem

import raydd
from raydd.api.experts import train_experts
from raydd.config.parsing import build
from raydd.data.synset import SyntheticSet
from raydd.io.console import Screen
from raydd.io.filesystem import open_store
from raydd.io.paths import below
from raydd.remote import trial_storage
from raydd.remote.cluster_files import serve_files
from raydd.tuning.location import location_of
from raydd.tuning.space_files import make_space
from raydd.tuning.trial import SearchContext, run_trial, trial_folder

pytestmark = pytest.mark.remote

EXPERTS = {"network": "MLP", "num_experts": 2, "epochs": 8}
SPACE = {
    "method": "mtt",
    "set": {"steps": 20, "student_steps": 4, "evaluate_epochs": 20, "window": {"high": 6}, "experts": EXPERTS},
    "domains": {"lr.images": {"log_uniform": [0.1, 100]}},
    "search": {"algorithm": "random"},
    "budget": {"samples": 2, "reports": 4},
}


def tune(out, tree, **options):
    notes = []

    class Notes(Screen):
        def note(self, text):
            notes.append(text)

    return raydd.tune(tree, out, screen=Notes(), evaluation=None, **options), notes


@pytest.fixture(scope="module")
def buffer(ray2, tmp_path_factory):
    config = raydd.ExpertsConfig(experts=build(raydd.ExpertConfig, EXPERTS))
    return train_experts(config, tmp_path_factory.mktemp("buffers") / "experts")


@pytest.fixture
def alone(buffer, tmp_path):
    """Runs the trials of a search in this process, and gives their folder."""

    def run(tree, proposals):
        context = SearchContext(make_space(tree), buffer, tmp_path / "alone", "cpu")
        for number, values in enumerate(proposals):
            list(run_trial(context, number, values))
        return context.folder

    return run


def same_runs(results, folder, reference):
    """The runs of trials, to the bit."""
    for trial in results.trials:
        one, other = (SyntheticSet.load(trial_folder(f, trial.number) / "synset.arrow") for f in (folder, reference))
        assert torch.equal(one.images, other.images)
        assert one.history == other.history


@pytest.mark.slow
def test_trials_that_do_not_see_the_folder_send_their_runs(ray2, buffer, alone, tmp_path, monkeypatch, kill_worker):
    """All that reaches the driver's folder comes as checkpoints, through the driver's actor; one worker dies."""
    real, systems = trial_storage.search_storage, []

    @contextmanager
    def elsewhere(folder, uri, **options):
        with real(folder, uri, **options) as storage:
            systems.append(serve_files(str(folder), storage.token, "of another folder"))
            yield storage._replace(content="of another folder", system=systems[0])

    monkeypatch.setattr("raydd.remote.tune.search_storage", elsewhere)
    tree, out = SPACE | {"set": SPACE["set"] | {"steps": 300, "checkpoint_every": 10}}, tmp_path / "out"

    def kill():
        while not list(out.glob("trials/*/checkpoint_*/checkpoint.json")):
            time.sleep(0.02)
        kill_worker("ray::ImplicitFunc")

    killer = threading.Thread(target=kill)
    killer.start()
    results, notes = tune(out, tree, buffer=str(buffer))
    killer.join()
    assert [trial.state for trial in results.trials] == ["complete"] * 2
    assert [note for note in notes if "its worker died; a new one continues" in note]
    same_runs(results, out, alone(tree, [trial.values for trial in results.trials]))
    for trial in results.trials:
        assert len(list((out / "trials" / f"{trial.number:04d}").glob("checkpoint_*"))) == 1
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_a_search_at_a_uri_is_the_same_and_goes_on_elsewhere(ray2, buffer, alone, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    uri = s3(f"bucket/{tmp_path.name}")
    results, notes = tune(uri, SPACE, buffer=str(buffer))
    assert [trial.state for trial in results.trials] == ["complete"] * 2
    reference = alone(SPACE, [trial.values for trial in results.trials])
    whole = SyntheticSet.load(trial_folder(reference, results.best.number) / "synset.arrow")
    assert torch.equal(results.synset.images, whole.images)
    assert {"space.yaml", "study.journal", "results.parquet", "best.yaml"} <= open_store(uri).names().keys()
    assert open_store(below(uri, "best")).names().keys() >= {"synset.arrow", "synset.png"}
    assert str(results.outputs["best/synset.arrow"]).startswith("s3://bucket/")
    secret = b"s3cret"
    assert not [path for path in results.folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
    system, root = open_store(uri).system, open_store(uri).path
    for info in trial_storage.TrialStore(system, root).sizes():
        with system.open_input_stream(f"{root}/{info}") as file:
            assert secret not in file.read(), info
    # Another machine goes on, and has only what is at the URI.
    monkeypatch.setattr("raydd.tuning.location.mirror", lambda uri: tmp_path / "elsewhere")
    again, notes = tune(uri, None, resume=True)
    assert again.trials == results.trials
    assert [note for note in notes if "all 2 trials are done" in note]
    assert torch.equal(again.synset.images, whole.images)
    with pytest.raises(ValueError, match="holds a search already; continue it with --resume"):
        tune(uri, SPACE)
    assert location_of(uri).has_search()


def test_a_trial_with_rollouts_reserves_its_helpers_and_has_the_bits_of_a_process_alone(ray2, buffer, alone, tmp_path):
    """Two CPUs and one trial: its one helper has a bundle of the trial's placement group."""
    tree = SPACE | {"set": SPACE["set"] | {"rollouts": 2}, "budget": {"samples": 1, "reports": 2}}
    bundles, out = set(), tmp_path / "out"

    def watch():
        while not (out / "results.parquet").exists():
            groups = ray2.util.placement_group_table().values()
            bundles.update(len(group["bundles"]) for group in groups if group["state"] == "CREATED")
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    results, _ = tune(out, tree, buffer=str(buffer))
    watcher.join()
    assert [trial.state for trial in results.trials] == ["complete"]
    same_runs(results, out, alone(tree, [results.trials[0].values]))
    assert 2 in bundles


CLUSTER = """
    import json, logging, sys, threading, time
    from pathlib import Path
    import ray
    from ray.cluster_utils import Cluster

    def blind():
        \"\"\"Workers see no folder of the driver, and take a GPU that Ray gives them for usable.\"\"\"
        import os, torch
        import raydd.remote.cluster_files as cluster_files, raydd.remote.buffer_store as buffer_store
        import raydd.remote.buffer_copy as buffer_copy, raydd.remote.demand as demand
        cluster_files.sees = lambda token, content: False
        buffer_store._digest_of = lambda path: ""
        held = buffer_copy._holds
        buffer_copy._holds = lambda path, data: "copies" in path.parts and held(path, data)
        def resolve(name):
            with open(os.environ["RAYDD_SEEN"], "a") as file:
                print(name, os.environ.get("CUDA_VISIBLE_DEVICES", ""), file=file)
            return torch.device("cpu")
        demand.resolve_device = resolve

    if __name__ == "__main__":
        out, buffer, tree, device = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
        fast = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
        small = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
        head = {"num_cpus": 0, **small, "_system_config": fast | {"health_check_timeout_ms": 500}}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
        ray.init(
            address=cluster.address, namespace="raydd", log_to_driver=False, logging_level=logging.ERROR,
            runtime_env={"worker_process_setup_hook": blind},
        )
        import raydd
        from raydd.config.placement import Where
        from raydd.io.console import Screen
        notes = []

        class Notes(Screen):
            def note(self, text):
                notes.append(text)

        def cut_off():
            while len(list(out.glob("trials/*/checkpoint_*/checkpoint.json"))) < 2:
                time.sleep(0.05)
            cluster.remove_node(nodes[0], allow_graceful=False)

        threading.Thread(target=cut_off, daemon=True).start()
        where = Where(address="auto", device=device)
        results = raydd.tune(tree, out, buffer=buffer, evaluation=None, where=where, screen=Notes())
        states = [trial.state for trial in results.trials]
        print(json.dumps([states, [trial.values for trial in results.trials], notes, len(cluster.list_all_nodes())]))
        ray.shutdown()
        cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("word", ["auto", "cuda"])
def test_a_cluster_without_a_shared_disk_whose_node_is_cut_off_finishes_with_the_same_bits(
    ray2, buffer, alone, tmp_path, word
):
    """A head without CPUs, two nodes with a GPU each that do not see the driver's folders; one is lost."""
    (tmp_path / "script.py").write_text(textwrap.dedent(CLUSTER))
    tree, out = SPACE | {"set": SPACE["set"] | {"steps": 400, "checkpoint_every": 10}}, tmp_path / "out"
    words = [sys.executable, "script.py", str(out), str(buffer), json.dumps(tree), word]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAYDD_SEEN": str(tmp_path / "seen.txt")}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    states, values, notes, nodes = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[[")))
    assert states == ["complete"] * 2
    assert nodes == 2
    assert [note for note in notes if "its worker died; a new one continues" in note]
    assert [note for note in notes if "in the object store" in note]
    seen = (tmp_path / "seen.txt").read_text().splitlines()
    assert len(seen) >= 3
    assert set(seen) == {"cuda 0"}
    reference = alone(tree, values)
    for number in range(2):
        one, other = (SyntheticSet.load(trial_folder(f, number) / "synset.arrow") for f in (out, reference))
        assert torch.equal(one.images, other.images)


def test_of_tunes_own_states_the_newest_stay(tmp_path):
    trials = tmp_path / "trials"
    (trials / "0000").mkdir(parents=True)
    times = ("2026-01-31_23-59-59", "2026-02-01_00-00-00", "2025-12-31_10-00-00")
    kinds = {"experiment_state": "json", "search_gen_state": "json", "searcher-state": "pkl"}
    for kind, suffix in kinds.items():
        for when in times:
            (trials / f"{kind}-{when}.{suffix}").touch()
    (trials / "tuner.pkl").touch()
    trial_storage.drop_old_states(trial_storage.SearchStorage(LocalFileSystem(), str(tmp_path), None, ""))
    left = {f"{kind}-2026-02-01_00-00-00.{suffix}" for kind, suffix in kinds.items()}
    assert {path.name for path in trials.iterdir()} == left | {"0000", "tuner.pkl"}
    nowhere = trial_storage.SearchStorage(LocalFileSystem(), str(tmp_path / "nowhere"), None, "")
    trial_storage.drop_old_states(nowhere)


def test_a_node_that_is_further_than_the_storage_sends_its_result(tmp_path, monkeypatch):
    """A worker died after its last step, before its report was known; the next one on this node has nothing to do."""
    tree = {
        "method": "dm",
        "set": {"steps": 2, "threads": 1, "evaluate_epochs": 1, "experts": {"network": "MLP"}},
        "domains": {"lr.images": {"log_uniform": [0.1, 100]}},
        "budget": {"samples": 1, "reports": 1},
    }
    node, stored = tmp_path / "node", tmp_path / "stored"
    node.mkdir()
    monkeypatch.chdir(node)
    context = SearchContext(make_space(tree), None, tmp_path / "driver", "cpu")
    list(run_trial(context._replace(folder=node), 0, {"lr.images": 1.0}))
    storage = trial_storage.SearchStorage(LocalFileSystem(), str(stored), None, "")
    sent = []
    for report, checkpoint in trial_storage.independent_reports(context, storage, 0, {"lr.images": 1.0}, None, None):
        assert checkpoint is not None
        sent.append((report.step, SyntheticSet.load(os.path.join(checkpoint.path, "synset.arrow")).images))
    ((step, images),) = sent[-1:]
    assert step == 2
    assert torch.equal(images, SyntheticSet.load(trial_folder(node, 0) / "synset.arrow").images)
