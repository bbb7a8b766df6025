import shutil

import pytest

from raydd.data.synset import SyntheticSet
from raydd.io.tensor_file import load_tensors
from raydd.tuning.checkpoint_exchange import begin, clear, hand_over, keep, told
from raydd.tuning.population import CHANGEABLE
from raydd.tuning.space_files import make_space
from raydd.tuning.trial import Task, run_trial, trial_folder

EXPERTS = {"network": "MLP", "num_experts": 2, "epochs": 3}
SHORT = {"steps": 4, "checkpoint_every": 2, "evaluate_every": 2, "evaluate_networks": 1, "evaluate_epochs": 5}
MATCHED = {"student_steps": 1, "span": 1, "window": {"low": 0, "high": 1}, "lr": {"start": 0.05}}
STATISTICS = {"statistic": {"batch_real": 8}, "formation": {"factor": 1}, "lr": {"images": 0.5}}


@pytest.fixture(autouse=True)
def preset(tmp_path, monkeypatch):
    """A preset of nothing, so that the digits' own lies under no test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.yaml").write_text("{}\n")


def make(method="mtt", settings=MATCHED, domains=None):
    domains = domains or {"lr.images": {"uniform": [1.0, 1000.0]}}
    tree = {"method": method, "preset": "none.yaml", "domains": domains, "set": SHORT | settings | {"experts": EXPERTS}}
    return make_space(tree | {"budget": {"samples": 4}})


def bits(folder):
    names = ("synset.arrow", "last.arrow", "checkpoint/state.arrow", "metrics.jsonl")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def kept_of(task, number, values):
    """What a trial keeps at its first report, which is all that it does."""
    run_to_first_report = next(run_trial(task, number, values))
    return keep(trial_folder(task.folder, number), 0, run_to_first_report.index, most=2)


def test_a_set_taken_over_without_a_change_goes_on_to_the_same_bits(tmp_path, small_buffer):
    task, values = Task(make(), small_buffer, tmp_path, "cpu"), {"lr.images": 30.0}
    wanted = list(run_trial(task, 0, values))
    list(run_trial(task, 1, {"lr.images": 500.0}))
    other, taker = trial_folder(tmp_path, 2), trial_folder(tmp_path, 1)
    before = bits(taker)
    hand_over(kept_of(task, 2, values), taker, 1)
    (taker / "result.json").write_text("Tune's own")
    found = list(run_trial(task, 1, values, begin(taker, 1)))
    assert bits(taker)["synset.arrow"] == bits(trial_folder(tmp_path, 0))["synset.arrow"] != before["synset.arrow"]
    assert [(report.index, report.accuracy) for report in found] == [(r.index, r.accuracy) for r in wanted]
    assert found[0].seconds == next(run_trial(task, 2, values)).seconds, "the other's time counts"
    assert (taker / "result.json").read_text() == "Tune's own"
    assert (other / "kept" / "0-1" / "state.arrow").exists(), "the other keeps what it handed over"


def test_a_take_over_is_begun_once_whenever_it_is_cut_off(tmp_path, small_buffer):
    task, values = Task(make(), small_buffer, tmp_path, "cpu"), {"lr.images": 30.0}
    taker = trial_folder(tmp_path, 1)
    list(run_trial(task, 1, {"lr.images": 500.0}))
    kept = kept_of(task, 2, values)
    hand_over(kept, taker, 1)
    shutil.copytree(taker, tmp_path / "before")

    source = begin(taker, 1)
    assert source == taker / "taken-1"
    assert sorted(path.name for path in taker.iterdir()) == ["taken", "taken-1"]
    assert told(taker, source) == 1
    # Cut off while its old run was removed: the mark is not there yet.
    shutil.rmtree(taker)
    shutil.copytree(tmp_path / "before", taker)
    (taker / "checkpoint" / "state.arrow").unlink()
    assert begin(taker, 1) == source
    assert sorted(path.name for path in taker.iterdir()) == ["taken", "taken-1"]
    # Cut off after a step of its own: that is kept.
    reports = run_trial(task, 1, values, begin(taker, 1))
    assert [next(reports).step for _ in range(2)] == [2, 4]
    reports.close()
    state = (taker / "checkpoint" / "state.arrow").read_bytes()
    assert begin(taker, 1) == source
    assert (taker / "checkpoint" / "state.arrow").read_bytes() == state
    assert told(taker, source) == len(load_tensors(taker / "checkpoint" / "state.arrow")[1]["history"])
    # The next one starts afresh again, and the first is no more.
    hand_over(kept, taker, 2)
    begin(taker, 2)
    assert sorted(path.name for path in taker.iterdir()) == ["taken", "taken-2"]
    clear(taker)
    assert list(taker.iterdir()) == []


def test_without_a_take_over_nothing_is_touched(tmp_path, small_buffer):
    task = Task(make(), small_buffer, tmp_path, "cpu")
    folder = trial_folder(tmp_path, 0)
    assert told(folder, begin(folder, 0)) == 0
    list(run_trial(task, 0, {"lr.images": 30.0}))
    before = bits(folder)
    assert begin(folder, 0) is None
    assert bits(folder) == before
    assert told(folder, None) == 2


def test_what_is_kept_stays_as_it_was_and_only_the_latest_do(tmp_path):
    folder = tmp_path / "trial"
    (folder / "checkpoint").mkdir(parents=True)
    for index in range(1, 13):
        for name in ("checkpoint/state.arrow", "best.arrow", "reports.json"):
            fresh = folder / "fresh"
            fresh.write_text(f"{name} {index}")
            fresh.replace(folder / name)  # as all files are written
        kept = keep(folder, int(index > 10), index, most=3)
        assert kept == folder / "kept" / f"{int(index > 10)}-{index}"
    assert {path.name for path in (folder / "kept").iterdir()} == {"0-10", "1-11", "1-12"}
    found = {path.name: path.read_text() for path in (folder / "kept" / "0-10").iterdir()}
    assert found == {
        "state.arrow": "checkpoint/state.arrow 10",
        "best.arrow": "best.arrow 10",
        "reports.json": "reports.json 10",
    }


FAMILIES = {
    "trajectories": (
        "datm",
        MATCHED | {"ipc": 2, "initial": "correctly_classified"},
        {
            **{"lr.images": (30.0, 10.0), "lr.labels": (1.0, 2.0), "lr.lr": (1e-5, 1e-6)},
            **{"lr.momentum": (0.0, 0.5), "lr.labels_momentum": (0.9, 0.0), "student_steps": (1, 2), "span": (1, 2)},
            **{"batch_size": (20, 5), "backprop": ("adjoint", "truncated"), "gate": (None, 1e6)},
            **{"window.low": (1, 0), "window.current": (1, 0), "window.high": (2, 1), "window.interval": (1, 5)},
            **{"pruning.rate": (0.0, 0.1), "pruning.metric": ("abs", "squared"), "intermediate": ("none", "equal")},
            **{"balance": (None, 8.0), "perturbation": (0.0, 0.1)},
        },
    ),
    "lines": ("mct", MATCHED, {"waypoints": ([1], [2]), "window.continuous": (True, False), "lr.images": (30.0, 10.0)}),
    "trained": (
        "dc",
        STATISTICS,
        {
            **{"statistic.of": ("gradient", "features"), "statistic.distance": ("cosine", "means")},
            **{
                "statistic.batch_real": (8, 5),
                "statistic.augment": ("none", "dsa"),
                "statistic.strategy": ("flip", "crop"),
            },
            **{"statistic.refresh": (2, 1), "statistic.epochs": (1, 2), "statistic.lr": (0.1, 0.2)},
            **{"statistic.batch_size": (4, 8), "statistic.each_class": (False, True)},
        },
    ),
    "queue": (
        "idm",
        STATISTICS,
        {
            **{"statistic.queue_size": (5, 2), "statistic.queue_steps": (1, 2), "statistic.refresh": (1, 2)},
            "statistic.batch_synthetic": (None, 1),
        },
    ),
    "experts": ("tgdd", STATISTICS, {"statistic.alpha": (0.0, 1.0), "statistic.region": (1, 3)}),
}


def test_every_changeable_setting_is_tried_below():
    assert {key for _, _, pairs in FAMILIES.values() for key in pairs} == CHANGEABLE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_set_is_taken_over_though_every_changeable_setting_differs(tmp_path, small_buffer, family):
    """Nothing that a checkpoint holds depends on them, in either direction."""
    method, settings, pairs = FAMILIES[family]
    domains = {key: {"choice": list(pair)} for key, pair in pairs.items()}
    task = Task(make(method, settings, domains), small_buffer, tmp_path, "cpu")
    sides = [{key: pair[side] for key, pair in pairs.items()} for side in (0, 1)]
    for number, (here, there) in enumerate([(0, 1), (1, 0)]):
        hand_over(kept_of(task, 2 * number, sides[here]), trial_folder(tmp_path, 2 * number + 1), 1)
        taker = trial_folder(tmp_path, 2 * number + 1)
        found = list(run_trial(task, 2 * number + 1, sides[there], begin(taker, 1)))
        assert [report.step for report in found] == [2, 4]
        history = SyntheticSet.load(taker / "last.arrow").history
        theirs = load_tensors(trial_folder(tmp_path, 2 * number) / "kept" / "0-1" / "state.arrow")[1]["history"]
        assert history[0] == theirs[0]
