"""Population based training on a real Ray: sets are taken over, and no kill loses or repeats one."""

import gc
import json
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from raydd.data.synset import SyntheticSet
from raydd.remote import trial_storage
from raydd.remote.tune import Limits, run_trials
from raydd.tuning.space_files import make_space
from raydd.tuning.study import Study
from raydd.tuning.trial import SearchContext, trial_folder
from raydd.tuning.trial_scheduler import TrialScheduler

pytestmark = pytest.mark.remote

HOPELESS = (1e-4, 2e-4)
SPACE = {
    "method": "dm",
    "set": {
        **{"steps": 40, "initial": "noise", "checkpoint_every": 8, "evaluate_networks": 1, "evaluate_epochs": 40},
        **{"lr": {"start": 0.05}, "statistic": {"batch_real": 32, "augment": "none"}, "experts": {"network": "MLP"}},
    },
    "domains": {"lr.images": {"choice": [*HOPELESS, 0.5, 1.0]}},
    "search": {"algorithm": "random", "first": "none"},
    "scheduler": {"name": "pbt", "grace": 1, "reduction": 2},
    "budget": {"samples": 4, "reports": 4},
}


@pytest.fixture(autouse=True)
def _tunes_own_files():
    """Tune's loggers leave files to be closed with the memory: here, where no warning of it is an error."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(name="tree")
def _tree(tmp_path):
    """The space, over a preset of nothing."""
    (tmp_path / "none.yaml").write_text("{}\n")
    return SPACE | {"preset": str(tmp_path / "none.yaml")}


@pytest.fixture
def population(tmp_path, tree):
    """Makes the task, and the trials over its journal."""

    def make():
        space, notes = make_space(tree), []
        task = SearchContext(space, None, tmp_path, "cpu")
        search = Study(space, tmp_path / "study.journal")
        return task, TrialScheduler(search, 4, lambda status: notes.append(status.note)), search, notes

    return make


def check_outcome(task, search):
    """All trials ran to their end, with the settings and the scores that the study tells of."""
    records = search.records()
    assert [(record.state, record.error) for record in records] == [("complete", "")] * 4
    for record in records:
        folder = trial_folder(task.folder, record.number)
        synset = SyntheticSet.load(folder / "synset.arrow")
        assert synset.history[-1]["step"] == record.step == 40
        assert max(entry["mean"] for entry in synset.history) == record.metrics["accuracy"]
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["lr"]["images"] == record.values["lr.images"]
        assert not [*folder.glob("inherited*")]
        assert len([*folder.glob("checkpoint_*")]) <= 1, "the last one of the result grid"
    return records


@pytest.mark.slow
def test_the_hopeless_take_over_from_the_good(ray2, population):
    task, trials, search, notes = population()
    starts = [search.propose().values["lr.images"] for _ in range(4)]
    assert sum(start in HOPELESS for start in starts) == 2
    task, trials, search, notes = population()  # all are left by an earlier process
    run_trials(task, trials, Limits(), [])
    records = check_outcome(task, search)
    takers = [record for record in records if search.changes(record.number)]
    assert {record.number for record in takers} >= {n for n, start in enumerate(starts) if start in HOPELESS}
    for record in takers:
        assert record.values == search.changes(record.number)[-1]
        if starts[record.number] in HOPELESS:
            assert record.metrics["accuracy"] > record.reports[0][1] + 0.3
    assert sum("continues from trial" in note for note in notes) == sum(len(search.changes(n)) for n in range(4))
    assert min(record.metrics["accuracy"] for record in records) > 0.6


@pytest.mark.slow
def test_a_population_that_does_not_see_the_folder_sends_its_runs(ray2, population, monkeypatch):
    """Trials take over checkpoints of trials that ran elsewhere, and their results reach the driver's folder."""
    real = trial_storage.search_storage

    @contextmanager
    def elsewhere(folder, uri, **options):
        with real(folder, uri, **options) as storage:
            yield storage._replace(content="of another folder")

    monkeypatch.setattr("raydd.remote.tune.search_storage", elsewhere)
    task, trials, search, _ = population()
    run_trials(task, trials, Limits(), [])
    check_outcome(task, search)
    assert any(search.changes(number) for number in range(4))


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(ray2, population, kill_worker):
    task, trials, search, notes = population()
    killed = []
    # Beside the driver, which must go on for a worker to be at work; an idle one has no trial to lose.
    killer = threading.Thread(target=lambda: killed.append(kill_worker("ray::ImplicitFunc.train")))
    show = trials.show

    def watch(status):
        show(status)
        if killer.ident is None and "continues from" in status.note:
            killer.start()

    trials.show = watch
    run_trials(task, trials, Limits(), [])
    killer.join()
    assert killed
    assert any("its worker died" in note for note in notes)
    if any(record.state == "unfinished" for record in search.records()):
        # Tune gives up a trial whose worker dies just before it begins.
        task, trials, search, _ = population()
        run_trials(task, trials, Limits(), [])
    check_outcome(task, search)


DRIVER = """
import sys
from pathlib import Path
import yaml
from raydd.remote.session import session
from raydd.remote import trial_storage
from raydd.remote.tune import Limits, run_trials
from raydd.tuning.trial_scheduler import TrialScheduler
from raydd.tuning.study import Study
from raydd.tuning.space_files import make_space
from raydd.tuning.trial import SearchContext
space, out = make_space(yaml.safe_load(sys.argv[1])), Path(sys.argv[2])
with session():
    task = SearchContext(space, None, out, "cpu")
    run_trials(task, TrialScheduler(Study(space, out / "study.journal"), 4, lambda status: None), Limits(), [])
"""


def changes_in(journal):
    """How many take-overs a journal tells of."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return sum("changes" in json.loads(line).get("user_attr", {}) for line in lines)


def below(parent):
    """The processes below another."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it ended
            pass
    found = {parent}
    while more := {pid for pid, other in parents.items() if other in found} - found:
        found |= more
    return found - {parent}


def title(pid):
    """What a process calls itself; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.slow
def test_a_killed_driver_goes_on_with_the_settings_that_were_taken_over(ray2, population, tree, tmp_path):
    journal = tmp_path / "study.journal"
    words = [sys.executable, "-c", DRIVER, json.dumps(tree), str(tmp_path)]
    with (tmp_path / "driver.txt").open("w") as told:
        process = subprocess.Popen(words, stdout=told, stderr=told)
    end = time.monotonic() + 60
    while not changes_in(journal) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    assert process.poll() is None, (tmp_path / "driver.txt").read_text()
    others = below(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 60
    while any(title(pid).startswith("ray::ImplicitFunc") for pid in others):
        assert time.monotonic() < end
        time.sleep(0.1)
    task, trials, search, _ = population()
    before = {number: search.changes(number) for number in range(4)}
    left = {ask.number: ask.values for ask in search.unfinished()}
    assert any(before.values())
    assert left == {number: changes[-1] for number, changes in before.items() if changes} | {
        number: left[number] for number in left if not before[number]
    }
    run_trials(task, trials, Limits(), [])
    records = check_outcome(task, search)
    assert len(records) == 4
    for record in records:
        after = search.changes(record.number)
        assert after[: len(before[record.number])] == before[record.number]
