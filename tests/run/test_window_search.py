"""The search for the range of start epochs: what it decides, and what it looks at."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from toy_runs import toy_of, train_buffer

from raydd.api.distill import distill
from raydd.config.components import WindowConfig
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.methods import METHODS
from raydd.run import window_search
from raydd.run.experts import open_buffer
from raydd.run.resolve import RunContext
from raydd.run.window_search import STRIDE, WIDTH, Trial, find_window, search

CPU = torch.device("cpu")


def fake(last, harms=lambda low, high: "", missed=()):
    """A pilot that harms the former or the latter half where it is told to, and notes what was asked."""
    asked = []

    def pilot(low, high):
        asked.append((low, high))
        before, after, middle = [0.5] * (last + 1), [0.4] * (last + 1), (last + 1) // 2
        if "former" in harms(low, high):
            after[:middle] = [0.6] * middle
        if "latter" in harms(low, high):
            after[middle:] = [0.6] * (last + 1 - middle)
        return Trial(low, high, before, after, [epoch for epoch in missed if low <= epoch <= high])

    return pilot, asked


def test_the_steps_are_the_papers_and_ours():
    assert (WIDTH, STRIDE, window_search.PILOT_STEPS) == (10, 5, 50)  # 10 and 50: appendix A.6


CASES = [
    # last, what harms, epochs missed, ranges tried, what is found
    (48, "never", (), [(0, high) for high in (10, 15, 20, 25, 30, 35, 40, 45, 48)], (0, 48, 48)),
    (10, "never", (), [(0, 10)], (0, 10, 10)),
    (7, "never", (), [(0, 7)], (0, 7, 7)),
    (0, "never", (), [(0, 0)], (0, 0, 0)),
    (22, "latter always", (), [(0, 10), (5, 15), (10, 20), (12, 22)], (12, 22, 22)),
    (22, "latter until 15", (), [(0, 10), (5, 15), (5, 20), (5, 22)], (5, 22, 22)),
    (48, "former always", (), [(0, 10), (0, 15)], (0, 10, 10)),
    (48, "former from 25", (), [(0, 10), (0, 15), (0, 20), (0, 25)], (0, 20, 20)),
    (48, "latter until 20, former from 30", (), [(0, 10), (5, 15), (10, 20), (10, 25), (10, 30)], (10, 25, 25)),
    (48, "former from 25", (7, 12, 19, 22), [(0, 10), (0, 15), (0, 20), (0, 25)], (0, 7, 20)),
    (48, "former from 25", (22,), [(0, 10), (0, 15), (0, 20), (0, 25)], (0, 20, 20)),
    (48, "former from 15", (0,), [(0, 10), (0, 15)], (0, 0, 10)),
]
HARMS = {
    "never": lambda low, high: "",
    "latter always": lambda low, high: "latter",
    "latter until 15": lambda low, high: "latter" if high < 15 else "",
    "former always": lambda low, high: "former",
    "former from 25": lambda low, high: "former" if high >= 25 else "",
    "former from 15": lambda low, high: "former" if high >= 15 else "",
    "latter until 20, former from 30": lambda low, high: "latter" if high < 20 else "former" if high >= 30 else "",
}


@pytest.mark.parametrize(("last", "harms", "missed", "tried", "found"), CASES)
def test_a_range_is_found_from_what_trials_do(last, harms, missed, tried, found):
    pilot, asked = fake(last, HARMS[harms], missed)
    result = search(pilot, last)
    assert asked == tried
    assert (result.low, result.current, result.high) == found
    assert [(trial.low, trial.high) for trial in result.trials] == tried


def test_a_trial_harms_by_the_mean_of_the_part():
    trial = Trial(0, 3, [0.5, 0.5, 0.5, 0.5], [0.9, 0.2, 0.5, 0.6], [])
    assert trial.harms(slice(0, 2))
    assert trial.harms(slice(2, 4))
    assert not trial.harms(slice(1, 3))
    assert not trial._replace(after=trial.before).harms(slice(0, 4))


def test_an_epoch_that_was_missed_before_the_range_does_not_count():
    pilot, _ = fake(22, HARMS["latter until 15"])

    def noting(low, high):
        return pilot(low, high)._replace(missed=[2, 9])

    assert (search(noting, 22).low, search(noting, 22).current) == (5, 9)


def test_what_was_found_is_a_window_that_is_not_searched_again():
    pilot, _ = fake(48, HARMS["former from 25"], (7,))
    asked = WindowConfig(low=3, high=9, interval=40, continuous=True, auto=True)
    found = search(pilot, 48)
    assert found.window(asked) == WindowConfig(low=0, current=7, high=20, interval=40, continuous=True)
    document = json.loads(json.dumps(found.to_json()))
    assert (document["low"], document["current"], document["high"]) == (0, 7, 20)
    assert document["trials"][1]["high"] == 15
    assert set(document["trials"][0]) == {"low", "high", "before", "after", "missed"}


TOY = {
    "ipc": 1,
    "steps": 2,
    "student_steps": 2,
    "span": 2,
    "threads": 1,
    "window": {"auto": True, "interval": 1},
    "lr": {"images": 20, "lr": 1e-4, "start": 0.05},
    "experts": {"network": "MLP", "num_experts": 3, "epochs": 15, "lr": 0.05},
}


toy = toy_of(TOY)


def context(config, buffer, work):
    return RunContext(config, Path("nowhere"), buffer, work)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_buffer(tmp_path_factory.mktemp("search") / "buffer", toy("mtt"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(window_search, "PILOT_STEPS", 3)


@pytest.mark.parametrize("method", ["mtt", "datm", "mct"])
def test_trials_start_alike_and_leave_the_last_expert_out(method, folder, quick):
    buffer, work = open_buffer(folder, toy(method), CPU)
    told = []
    found = find_window(context(toy(method), buffer, work), told.append)
    again = find_window(context(toy(method), buffer, work), told.append)
    assert found == again
    assert len(told) == 2 * len(found.trials)
    assert told[0].startswith("window 0-10: mean loss ")
    last = 15 - 2
    assert 0 <= found.low <= found.current <= found.high <= last
    assert (found.trials[0].low, found.trials[0].high) == (0, 10)
    look = METHODS[method](window_search.Setup(toy(method), work, window_search.without_last(buffer)))
    for trial in found.trials:
        assert list(trial.before) == look.probe(2).losses(look.synset)
        assert len(trial.after) == last + 1
        assert trial.after != trial.before
        assert all(trial.low <= epoch <= trial.high for epoch in trial.missed)
    assert json.loads(json.dumps(found.to_json()))["trials"][0]["after"] == found.trials[0].after


def test_a_trial_misses_where_no_student_can_follow(folder, quick):
    """With a step size that throws students away every loss is above 1, and T must not be above what was drawn."""
    config = toy("mtt", {"lr": {"start": 0.8}})
    found = find_window(context(config, *open_buffer(folder, config, CPU)), lambda text: None)
    assert [len(trial.missed) for trial in found.trials] == [3] * len(found.trials)
    best = next(trial for trial in reversed(found.trials) if trial.high == found.high)
    assert found.current == min(best.missed)


def test_a_range_in_which_distilling_diverges_harms(folder, quick):
    """At such a step size of the students no loss is finite: every trial ends early, and the search does not."""
    config = toy("mtt", {"lr": {"start": 1e30, "lr": 0}})
    found = find_window(context(config, *open_buffer(folder, config, CPU)), lambda text: None)
    assert [trial.high for trial in found.trials] == [10, 13]
    for trial in found.trials:
        assert all(math.isinf(loss) for loss in trial.after)
        assert trial.harms(slice(None))
        assert len(trial.missed) == 10


def test_a_method_without_trajectories_has_no_window(folder, monkeypatch):
    original = METHODS["mtt"]
    monkeypatch.setitem(METHODS, "mtt", replace(original, compose=lambda setup: original(setup)._replace(probe=None)))
    with pytest.raises(ValueError, match=r"matches no trajectories; set window.high instead"):
        find_window(context(toy("mtt"), *open_buffer(folder, toy("mtt"), CPU)), lambda text: None)


def test_a_run_keeps_the_window_it_found(folder, quick, tmp_path, monkeypatch):
    out, where = tmp_path / "run", Where(device="cpu")
    preset = {"window": {"high": 30}}  # of longer experts: the search does not ask for it
    distill(toy("datm", preset), out, buffer=folder, where=where)
    found = json.loads((out / "window.json").read_text())
    settled = build(DistillConfig, yaml.safe_load((out / "config.yaml").read_text()))
    window = {"low": found["low"], "current": found["current"], "high": found["high"], "interval": 1}
    assert settled.window == WindowConfig(**window)
    assert not settled.window.auto
    with Image.open(out / "window.png") as picture:
        assert min(picture.size) > 100
    before = computed(out)

    def never(*_):
        raise AssertionError("searched again")

    monkeypatch.setattr("raydd.run.window_search.find_window", never)
    again = distill(toy("datm", preset), out, buffer=folder, where=where, resume=True)
    assert computed(out) == before
    (out / "synset.arrow").unlink()
    (out / "checkpoint" / "state.arrow").unlink()
    anew = distill(toy("datm", preset), out, buffer=folder, where=where, resume=True)
    assert torch.equal(anew.images, again.images)
    assert build(DistillConfig, yaml.safe_load((out / "config.yaml").read_text())).window == settled.window
    given = {"window": {**window, "auto": False}}
    plain = distill(toy("datm", given), tmp_path / "plain", buffer=folder, where=where)
    assert torch.equal(plain.images, again.images)
    assert not (tmp_path / "plain" / "window.json").exists()


def computed(out):
    """The files of a run folder, but for what was measured of this process."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != "memory.jsonl"}
