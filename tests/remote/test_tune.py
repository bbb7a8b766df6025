"""Searches on a real Ray: what they write, what they look at, and what survives a kill."""

import fcntl
import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import raydd
from raydd.config.parsing import build
from raydd.config.presets import expand_preset
from raydd.data.synset import SyntheticSet
from raydd.io.console import Screen
from raydd.tuning.results import load_results
from raydd.tuning.space_files import make_space
from raydd.tuning.study import Study

pytestmark = pytest.mark.remote

QUICK = {
    "steps": 20,
    "student_steps": 4,
    "evaluate_epochs": 20,
    "window": {"high": 6},
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 8},
}
SPACE = {
    "method": "mtt",
    "set": QUICK,
    "domains": {"lr.images": {"log_uniform": [0.1, 100]}, "span": {"integer": [1, 3]}},
    "constraints": ["window.high + span <= experts.epochs"],
    "budget": {"samples": 3, "reports": 4},
}
ONCE = raydd.EvaluateConfig(seeds=1, epochs=20, real_epochs=0)


def tune(out, tree, evaluation=None, **options):
    """A search, which leaves the test images alone unless it is told otherwise; and its notes."""
    notes: list[str] = []

    class Notes(Screen):
        def note(self, text):
            notes.append(text)

    return raydd.tune(tree, out, screen=Notes(), evaluation=evaluation, **options), notes


@pytest.fixture(scope="module")
def finished(ray2, tmp_path_factory):
    """A finished search of three trials; read only."""
    return tune(tmp_path_factory.mktemp("search") / "out", SPACE, ONCE)


@pytest.mark.verb
def test_a_small_search_writes_its_files(ray2, small_buffer, tmp_path):
    """The default run's search: two trials of four steps, with experts that are there, and no test images."""
    short = {"steps": 4, "student_steps": 1, "window": {"high": 1}, "span": 1, "evaluate_networks": 1}
    tree = SPACE | {
        "set": short | {"evaluate_epochs": 2, "experts": {"network": "MLP", "num_experts": 2, "epochs": 3}},
        "domains": {"lr.images": {"log_uniform": [0.1, 100]}},
        "constraints": [],
        "budget": {"samples": 2, "reports": 2},
    }
    results, notes = tune(tmp_path / "out", tree, buffer=str(small_buffer))
    assert [trial.state for trial in results.trials] == ["complete"] * 2
    assert results.trials[0].values == {"lr.images": 5.0}  # the preset's own point
    rows = load_results(results.folder / "results.parquet")
    assert [row["accuracy"] for row in rows] == [trial.metrics["accuracy"] for trial in results.trials]
    assert all(path.exists() for path in results.outputs.values())
    for trial in results.trials:
        history = SyntheticSet.load(results.folder / "trials" / f"{trial.number:04d}" / "synset.arrow").history
        assert [entry["step"] for entry in history] == [2, 4]
        assert trial.metrics["accuracy"] == max(entry["mean"] for entry in history)
    assert [note for note in notes if "on validation images" in note]
    assert {result.metrics["step"] for result in results.grid} == {4}


def test_a_search_writes_what_it_says(finished):
    results, notes = finished
    out = results.folder
    assert [trial.state for trial in results.trials] == ["complete"] * 3
    assert results.trials[0].values == {"lr.images": 5.0, "span": 2}  # the preset's own point
    rows = load_results(out / "results.parquet")
    assert [row["accuracy"] for row in rows] == [trial.metrics["accuracy"] for trial in results.trials]
    assert rows[1]["settings.lr.images"] == results.trials[1].values["lr.images"]
    assert pq.read_schema(out / "results.parquet").field("settings.span").type == "int64"
    assert max(row["accuracy"] for row in rows) == results.best.metrics["accuracy"]
    assert all(path.exists() for path in results.outputs.values())
    assert {"history", "values", "parallel", "best.yaml", "scores", "study"} <= set(results.outputs)
    for trial in results.trials:
        folder = out / "trials" / f"{trial.number:04d}"
        assert list(folder.glob("events.out.tfevents*"))
        history = SyntheticSet.load(folder / "synset.arrow").history
        assert [entry["step"] for entry in history] == [5, 10, 15, 20]
        assert trial.metrics["accuracy"] == max(entry["mean"] for entry in history)
        assert {entry["split"] for entry in history} == {"validation"}
    assert [note for note in notes if "on validation images" in note]


@pytest.mark.slow
def test_the_best_is_scored_on_test_images_beside_the_preset_and_real_images(finished):
    results, _ = finished
    names = [score.name for score in results.scores]
    assert names[0] == f"best: trial {results.best.number}"
    assert ("preset: trial 0" in names) == (results.best.number != 0)
    assert {score.kind for score in results.scores} == {"distilled", "random", "kmeans", "herding", "kcenter"}
    stored = json.loads((results.folder / "scores.json").read_text())["scores"]
    assert stored == [score.to_document() for score in results.scores]
    again = raydd.evaluate([results.synset], ONCE)
    assert again[0].values == results.scores[0].values


def test_the_best_settings_distill_to_the_same_bits(finished, tmp_path):
    results, _ = finished
    preset = expand_preset(str(results.folder / "best.yaml"), 1)
    synset = raydd.distill(build(raydd.DistillConfig, preset), tmp_path / "again")
    assert torch.equal(synset.images, results.synset.images)
    assert torch.equal(synset.lr, results.synset.lr)
    assert synset.history == results.synset.history
    assert preset["preset"] == f"search space, trial {results.best.number}"


def test_a_finished_search_is_not_run_again_and_can_be_extended(finished, tmp_path):
    results, _ = finished
    times = {path: path.stat().st_mtime_ns for path in results.folder.glob("trials/*/synset.arrow")}
    with pytest.raises(ValueError, match=r"holds a search already; continue it with --resume"):
        tune(results.folder, SPACE)
    again, notes = tune(results.folder, None, resume=True)
    assert again.trials == results.trials
    assert [note for note in notes if "all 3 trials are done" in note]
    more, _ = tune(results.folder, None, resume=True, num_samples=4)
    assert more.trials[:3] == results.trials
    assert [trial.state for trial in more.trials] == ["complete"] * 4
    assert {path: path.stat().st_mtime_ns for path in times} == times
    before = (results.folder / "space.yaml").read_bytes()
    with pytest.raises(
        ValueError, match=r"another domains\.lr\.images\S+ \(was \[0\.1, 100\.0\], now the default\); use"
    ):
        tune(results.folder, SPACE | {"domains": {"span": {"choice": [1, 2]}}}, resume=True)
    assert (results.folder / "space.yaml").read_bytes() == before


def test_changing_test_labels_changes_no_trials_score_and_no_choice(ray2, tmp_path):
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    train[np.arange(60), np.arange(60) % 3] = 255  # a bright row a class: something to learn
    test = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    labels = np.arange(30) % 3
    found = []
    for name, answers in (("true", labels), ("false", (labels + 1) % 3)):
        path = tmp_path / name / "images.npz"
        path.parent.mkdir()
        np.savez(path, x_train=train, y_train=np.arange(60) % 3, x_test=test, y_test=answers)
        tree = SPACE | {"set": QUICK | {"data": {"dataset": str(path), "validation": 0.2}}}
        found.append(tune(tmp_path / f"out-{name}", tree, max_concurrent=1)[0])
    true, false = found
    assert [trial.reports for trial in true.trials] == [trial.reports for trial in false.trials]
    assert [trial.values for trial in true.trials] == [trial.values for trial in false.trials]
    assert true.best.number == false.best.number
    assert torch.equal(true.synset.images, false.synset.images)


@pytest.mark.slow
def test_asha_stops_what_is_bad_and_failures_are_results(ray2, tmp_path):
    """Of 12 trials eight take steps too small to learn, and one diverges: none of them holds the rest up."""
    starts = [0.05, 0.03, 1e20, 3e-4, 1e-4, 3e-5, 1e-5, 0.02, 1e-3, 2e-4, 6e-5, 2e-5]
    tree = SPACE | {
        "domains": {"lr.start": {"choice": starts}},
        "constraints": [],
        "search": {"algorithm": "grid"},
        "scheduler": {"name": "asha", "grace": 1, "reduction": 3},
        "budget": {"reports": 5},
    }
    results, notes = tune(tmp_path / "asha", tree)
    assert [trial.values["lr.start"] for trial in results.trials] == starts
    assert sum(trial.state == "pruned" for trial in results.trials) >= 4
    assert all(trial.step < 20 for trial in results.trials if trial.state == "pruned")
    assert results.best.values["lr.start"] in (0.05, 0.03, 0.02)
    (failed,) = [trial for trial in results.trials if trial.state == "failed"]
    assert failed.values["lr.start"] == 1e20
    assert "rollbacks" in failed.error
    assert [note for note in notes if note == f"trial 2 failed: {failed.error}"]
    assert load_results(tmp_path / "asha" / "results.parquet")[2]["error"] == failed.error


def test_what_no_machine_holds_and_what_another_holds_is_refused_before_anything_is_trained(ray2, tmp_path):
    out = tmp_path / "refused"
    for words, tree, options in (
        ("a trial needs 99 CPU o", SPACE | {"set": QUICK | {"threads": 99}}, {}),
        ("--max-concurrent 0: at least 1", SPACE, {"max_concurrent": 0}),
        ("--gpus-per-trial -1", SPACE, {"gpus_per_trial": -1.0}),
        ("unknown setting 'lr.imagez'", raydd.Space(domains={"lr.imagez": {"choice": [1]}}, budget={"samples": 1}), {}),
        ("needs a package that is not installed", SPACE, {"mlflow": "nowhere"}),
        ("unknown protocol 'x'; use one of mtt", SPACE, {"evaluation": raydd.EvaluateConfig(protocol="x")}),
        ("'Conv'", SPACE, {"evaluation": raydd.EvaluateConfig(networks=("Conv",))}),
    ):
        with pytest.raises(ValueError, match=words):
            tune(out, tree, **options)
    with held(out), pytest.raises(ValueError, match="another process works there"):
        tune(out, SPACE)
    assert [path.name for path in out.iterdir()] == [".lock"]


@pytest.mark.parametrize("key", ["dataset", "set"])
@pytest.mark.slow
def test_a_data_set_of_a_space_file_lies_in_this_folder_as_that_of_the_flag(ray2, tmp_path, monkeypatch, images, key):
    """Workers run elsewhere, and find it too; keys have dots everywhere."""
    monkeypatch.chdir(images.parent)
    where = {"dataset": images.name} if key == "dataset" else {"set": {"data.dataset": images.name}}
    settings = {"steps": 2, "evaluate_epochs": 1, "experts.network": "MLP", "data.validation": 0.2, "initial": "real"}
    tree = {"method": "dm", "budget.samples": 1, "domains": {"lr.images": {"log_uniform": [0.1, 100]}}}
    tree |= where | {"set": settings | where.get("set", {})}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(tree))
    results, _ = tune(tmp_path / "out", tmp_path / "own.yaml")
    assert [trial.state for trial in results.trials] == ["complete"]
    assert results.synset.classes == ("cat", "dog")
    assert results.synset.recipe["data"]["dataset"] == str(images.resolve())


def test_a_search_whose_trials_all_fail_has_failed_and_says_why(ray2, tmp_path):
    """What the trials are known to be is kept; the command ends with 1."""
    wild = SPACE | {"set": QUICK | {"lr": {"start": 1e20}}, "domains": {"lr.images": {"log_uniform": [0.1, 100]}}}
    wild |= {"budget": {"samples": 2}, "constraints": []}
    with pytest.raises(
        RuntimeError, match=r"^all 2 trials failed.*: FloatingPointError: .*rollbacks.*another --out"
    ) as told:
        tune(tmp_path / "out", wild)
    assert "\n" not in str(told.value)
    assert [row["state"] for row in load_results(tmp_path / "out" / "results.parquet")] == ["failed"] * 2


@contextmanager
def held(folder):
    """A folder in which another process works: it has the lock, as versions before this one take it too."""
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_journal_is_never_removed_whoever_else_works_there(ray2, tmp_path):
    """Another search that still trains its experts, and one whose space.yaml is gone."""
    space = make_space(SPACE)
    journal = tmp_path / "out" / "study.journal"
    asked = Study(space, journal).propose()
    before = journal.read_bytes()
    with pytest.raises(ValueError, match="holds a search already; continue it with --resume"):
        tune(journal.parent, SPACE)
    with held(journal.parent), pytest.raises(ValueError, match="another process works there"):
        tune(journal.parent, SPACE, resume=True)
    with pytest.raises(ValueError, match="another seed"):
        tune(journal.parent, SPACE | {"seed": 5}, resume=True)
    assert journal.read_bytes() == before
    assert Study(space, journal).unfinished() == [asked]


@pytest.mark.slow
def test_the_best_of_fewer_experts_of_a_named_buffer_says_what_it_had(ray2, tmp_path):
    buffer = raydd.train_experts(
        raydd.ExpertsConfig(experts=build(raydd.ExpertConfig, QUICK["experts"])), tmp_path / "b"
    )
    tree = SPACE | {
        "domains": {"experts.num_experts": {"choice": [1, 2]}},
        "search": {"algorithm": "grid"},
        "budget": {},
    }
    results, _ = tune(tmp_path / "few", tree, buffer=str(buffer))
    assert [trial.state for trial in results.trials] == ["complete", "complete"]
    assert results.trials[0].metrics["accuracy"] != results.trials[1].metrics["accuracy"]
    head = (results.folder / "best.yaml").read_text().partition("method:")[0]
    assert f"It used the first {results.best.values['experts.num_experts']} experts of {buffer}" in head


@pytest.mark.slow
def test_two_metrics_give_a_front(ray2, tmp_path):
    tree = SPACE | {
        "domains": {"steps": {"choice": [4, 40]}, "lr.images": {"log_uniform": [1, 20]}},
        "constraints": [],
        "metrics": ["accuracy", "seconds"],
        "budget": {"samples": 4, "reports": 1},
    }
    results, _ = tune(tmp_path / "front", tree)
    assert results.front
    cheapest = min(results.trials, key=lambda trial: trial.metrics["seconds"])
    assert cheapest in results.front
    assert results.best in results.front
    assert results.outputs["pareto"].exists()


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint(ray2, tmp_path, kill_worker):
    tree = SPACE | {"set": QUICK | {"steps": 500}, "budget": {"samples": 1, "reports": 2}}
    whole, _ = tune(tmp_path / "whole", tree)
    out = tmp_path / "killed"
    steps_at_kill = []

    def kill():
        log = out / "trials" / "0000" / "metrics.jsonl"
        while not log.exists() or log.read_text().count("\n") < 100:
            time.sleep(0.02)
        kill_worker("ray::ImplicitFunc")
        steps_at_kill.append(log.read_text().count("\n"))

    thread = threading.Thread(target=kill)
    thread.start()
    killed, notes = tune(out, tree)
    thread.join()
    assert 100 <= steps_at_kill[0] < 500
    assert [note for note in notes if "its worker died; a new one continues" in note]
    assert killed.trials[0].reports == whole.trials[0].reports
    assert torch.equal(killed.synset.images, whole.synset.images)
    memory = [json.loads(line) for line in (out / "trials" / "0000" / "memory.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in memory] == sorted({entry["step"] for entry in memory})


def timed(out, tree, past, resume=False):
    """A search whose time is up with its first trial past a step; a slow machine is given longer."""
    for seconds in (4.0, 8.0, 16.0, 32.0):
        results, notes = tune(out, tree, time_budget=seconds, resume=resume)
        assert [trial.state for trial in results.trials] == ["unfinished"] * len(results.trials)
        if results.trials and results.trials[0].step > past:
            break
        resume = True
    return results, notes


@pytest.mark.slow
def test_time_that_is_up_leaves_trials_to_be_resumed(ray2, tmp_path):
    tree = SPACE | {"set": QUICK | {"steps": 100_000, "evaluate_every": 2}, "budget": {"samples": 2}}
    stopped, notes = timed(tmp_path / "late", tree, past=1)
    assert [note for note in notes if "unfinished: continue them with the same command and --resume" in note]
    reached = stopped.trials[0].step
    assert reached >= 2
    assert stopped.synset.ipc == 1  # the best set so far
    later, _ = timed(tmp_path / "late", tree, past=reached, resume=True)
    assert later.trials[0].step > reached


def start(out: Path, tree: dict, *words: str) -> subprocess.Popen[str]:
    """A search, a trial at a time, in a process of its own."""
    space = out.parent / "killed.yaml"
    space.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "raydd", "tune", "--space", str(space), "--out", str(out), *words]
    command += ["--max-concurrent", "1", "--seeds", "0", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_half_way(driver: subprocess.Popen[str], out: Path) -> None:
    """Kill a search's driver when two of its trials are done."""
    end = time.monotonic() + 120
    while len(list(out.glob("trials/*/synset.arrow"))) < 2 and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()


def test_a_killed_driver_is_resumed_to_the_same_search(finished, tmp_path):
    """SIGKILL half-way; --resume: what was finished stays, and the end is that of a search never killed."""
    plan = {"scheduler": {"name": "median"}, "budget": {"samples": 6, "reports": 4}}
    tree = SPACE | {"set": QUICK | {"steps": 60}} | plan
    killed = start(tmp_path / "killed", tree)  # the experts are those of the finished search
    killer = threading.Thread(target=kill_half_way, args=(killed, tmp_path / "killed"))
    killer.start()
    whole, _ = tune(tmp_path / "whole", tree, max_concurrent=1)  # meanwhile
    killer.join()
    assert killed.returncode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/trials/*/synset.arrow")}
    assert 2 <= len(done) < 6
    resumed = start(tmp_path / "killed", tree, "--resume")
    out, err = resumed.communicate(timeout=150)
    assert resumed.returncode == 0, err
    assert out.count("\n") == 1
    document = json.loads(out)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    one, two = (load_results(tmp_path / name / "results.parquet") for name in ("whole", "killed"))
    for row in (*one, *two):
        row.pop("seconds")
        row.pop("memory_mb", None)
    assert len(one) == 6
    assert one == two
    assert document["best"]["values"] == whole.best.values
