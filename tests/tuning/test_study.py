"""What comes next, what stops, and that the file alone decides both."""

import math
from pathlib import Path

import pytest

from raydd.tuning import study as module
from raydd.tuning.space import Space
from raydd.tuning.study import Proposal, Study

DOMAINS = {
    "window.low": {"integer": [0, 6]},
    "window.high": {"integer": [2, 21], "step": 3},
    "lr.images": {"log_uniform": [1, 100]},
    "experts.kept": {"choice": [[10, 20], [20], None]},
    "span": {"choice": [1, 2], "when": "window.low > 2"},
}
CONSTRAINTS = ["window.low + 4 <= window.high"]


def space(**settings) -> Space:
    base = {"method": "datm", "domains": DOMAINS, "constraints": CONSTRAINTS, "search": {"first": "none", "startup": 3}}
    return Space.model_validate(base | settings)


def asha(**settings) -> Space:
    return space(scheduler={"name": "asha", "grace": 1, "reduction": 3}, budget={"reports": 9}, **settings)


def score(ask: Proposal, index: int = 3) -> float:
    """A curve that rises with the reports, highest for small rates and late windows."""
    return (1 - abs(math.log10(ask.values["lr.images"]) - 1)) * (1 - 0.5**index) + ask.values["window.high"] / 100


def run(search: Study, ask: Proposal) -> None:
    """One trial from its first report on, as a worker that has lost its place repeats them."""
    for index in range(1, 4):
        metrics = {"accuracy": score(ask, index), "seconds": index / 3, "step": 10 * index}
        if search.report(ask.number, index, metrics):
            return search.prune(ask.number, metrics)
    return search.complete(ask.number, metrics)


def drive(search: Study, trials: int) -> Study:
    for ask in search.unfinished():
        run(search, ask)
    while len(search) < trials:
        run(search, search.propose())
    return search


def rates(search: Study, number: int) -> list[bool]:
    """Whether each of ``number`` trials, all running at once, is stopped: every second one is far worse."""
    asks = [search.propose() for _ in range(number)]
    stopped = [False] * number
    for index in range(1, 10):
        for ask in asks:
            level = (0.2 if ask.number % 2 else 0.8) + ask.number / 1000
            if not stopped[ask.number]:
                stopped[ask.number] = search.report(ask.number, index, {"accuracy": level * (1 - 0.5**index)})
    return stopped


def test_every_draw_is_allowed_and_typed_as_the_space_says(tmp_path):
    search = Study(space(), tmp_path / "study.journal")
    asks = [search.propose() for _ in range(25)]
    assert [ask.number for ask in asks] == list(range(25))
    for ask in asks:
        low, high = ask.values["window.low"], ask.values["window.high"]
        assert low + 4 <= high
        assert (high - 2) % 3 == 0
        assert ("span" in ask.values) == (low > 2)
        assert ask.values["experts.kept"] in DOMAINS["experts.kept"]["choice"]
    assert {"span" in ask.values for ask in asks} == {True, False}
    assert len({ask.values["lr.images"] for ask in asks}) == 25


def test_the_file_keeps_the_values_bit_by_bit(tmp_path):
    search = Study(space(), tmp_path / "study.journal")
    asks = [search.propose() for _ in range(10)]
    again = Study(space(), tmp_path / "study.journal")
    assert repr(again.unfinished()) == repr(asks)
    assert [record.values for record in again.records()] == [ask.values for ask in asks]
    assert search.unfinished() == []  # its own are not of an earlier process


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("metrics", [["accuracy"], ["accuracy", "seconds"]])
def test_one_search_and_many_that_follow_each_other_are_the_same(tmp_path, algorithm, metrics):
    plan = space(search={"algorithm": algorithm, "first": "none", "startup": 3}, metrics=metrics)
    whole = drive(Study(plan, tmp_path / "whole.journal"), 9)
    for trials in (1, 2, 4, 6, 9):
        parts = drive(Study(plan, tmp_path / "parts.journal"), trials)
    assert repr(parts.records()) == repr(whole.records())


def test_random_values_depend_on_seed_and_number_alone(tmp_path):
    plan = space(search={"algorithm": "random", "first": "none"})
    finished = drive(Study(plan, tmp_path / "finished.journal"), 8)
    running = Study(plan, tmp_path / "running.journal")
    assert [running.propose().values for _ in range(8)] == [record.values for record in finished.records()]
    small = [running.propose().values["lr.images"] < 10 for _ in range(32)]
    assert 8 <= sum(small) <= 24  # half of a logarithm's range, a tenth of the numbers
    other = Study(space(seed=1), tmp_path / "other.journal")
    assert other.propose().values != finished.records()[0].values


def test_tpe_looks_at_results_after_its_start(tmp_path):
    searches = [Study(space(), tmp_path / f"{sign}.journal") for sign in (1, -1)]
    for _ in range(12):
        for search, sign in zip(searches, (1, -1), strict=True):
            ask = search.propose()
            search.complete(ask.number, {"accuracy": sign * score(ask)})
    values = [[record.values for record in search.records()] for search in searches]
    assert values[0][:3] == values[1][:3]
    assert values[0][6:] != values[1][6:]


def test_tpe_keeps_away_from_running_trials(tmp_path):
    """Two searches equal but for one trial, which runs in one and failed, and so counts for nothing, in the other."""
    found = {}
    for name in ("running", "failed"):
        search = drive(Study(space(), tmp_path / f"{name}.journal"), 12)
        asked = search.propose()
        if name == "failed":
            search.fail(asked.number, "gone")
        found[name] = (asked, search.propose())
    assert found["running"][0] == found["failed"][0]
    assert found["running"][1].number == found["failed"][1].number
    assert found["running"][1].values != found["failed"][1].values


def test_a_point_is_not_tried_twice_while_others_are_left(tmp_path):
    plan = space(domains={"window.low": {"integer": [0, 3]}}, constraints=[])
    search = Study(plan, tmp_path / "study.journal")
    for _ in range(5):
        ask = search.propose()
        search.complete(ask.number, {"accuracy": ask.values["window.low"] / 10})
    values = [record.values["window.low"] for record in search.records()]
    assert sorted(values[:4]) == [0, 1, 2, 3]
    assert values[4] in range(4)


def test_the_first_trial_is_the_presets(tmp_path):
    plan = space(search={"first": "preset"}, domains={"lr.images": {"log_uniform": [1, 10_000]}}, constraints=[])
    search = Study(plan, tmp_path / "study.journal")
    expected = plan.preset_values()
    assert expected is not None
    assert search.propose().values == expected
    assert search.propose().values != expected


def test_a_grid_is_walked_in_order_and_ends(tmp_path):
    domains = {
        "window.low": {"integer": [0, 4]},
        "experts.kept": DOMAINS["experts.kept"],
        "window.high": {"choice": [5, 7]},
    }
    plan = space(domains=domains, search={"algorithm": "grid"})
    asked = []
    while (ask := Study(plan, tmp_path / "study.journal").propose()) is not None:
        asked.append(ask.values)
    assert asked == plan.grid()
    assert len(asked) == 18


def test_an_impossible_space_is_refused_by_its_constraint(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DRAWS", 1100)
    rule = "(window.low - window.low) * lr.images > 1"
    search = Study(space(constraints=[rule]), tmp_path / "study.journal")
    with pytest.raises(ValueError, match=r"window\.low - window\.low.* failed in 1100 of 1100 draws; widen"):
        search.propose()
    assert len(search) == 0


def test_a_trial_alone_is_not_stopped(tmp_path):
    search = Study(asha(), tmp_path / "study.journal")
    ask = search.propose()
    assert not any(search.report(ask.number, index, {"accuracy": 0.1 / index}) for index in range(1, 10))


@pytest.mark.parametrize("grace", [1, 3])
@pytest.mark.parametrize("name", ["asha", "median", "hyperband"])
def test_hopeless_trials_are_stopped_from_grace_on(tmp_path, name, grace):
    plan = space(scheduler={"name": name, "grace": grace, "reduction": 3}, budget={"reports": 9})
    search = Study(plan, tmp_path / "study.journal")
    for _ in range(4):
        ask = search.propose()
        for index in range(1, 10):
            assert not (search.report(ask.number, index, {"accuracy": 0.5 + ask.number / 100}) and index < grace)
        search.complete(ask.number, {"accuracy": 0.5})
    stops = []
    for _ in range(8):
        ask = search.propose()
        stops.append(next((i for i in range(1, 10) if search.report(ask.number, i, {"accuracy": 0.1})), None))
    assert all(stop is None or grace <= stop < 9 for stop in stops)
    if name == "hyperband":  # some of its brackets begin at the last report
        assert sum(stop is not None for stop in stops) >= 4
    else:
        assert stops == [grace] * 8


def test_asha_stops_at_least_a_third_of_twelve_and_not_the_best(tmp_path):
    stopped = rates(Study(asha(), tmp_path / "study.journal"), 12)
    assert sum(stopped) >= 4
    assert all(stopped[3::2])  # the first of the bad ones met only one good one
    assert not stopped[10]  # the best


@pytest.mark.parametrize("settings", [{"metrics": ["accuracy", "seconds"]}, {"scheduler": {"name": "pbt"}}])
def test_nothing_is_stopped_without_a_scheduler_or_by_several_metrics(tmp_path, settings):
    plan = asha().model_dump(mode="json", exclude_unset=True) | settings
    search = Study(Space.model_validate(plan), tmp_path / "study.journal")
    assert not any(rates(search, 12))
    assert [len(record.reports) for record in search.records()] == [9] * 12


def test_a_repeated_report_gets_the_same_answer_and_leaves_the_file_as_it_is(tmp_path):
    file = tmp_path / "study.journal"
    search = Study(asha(), file)
    good, bad = search.propose(), search.propose()
    assert not search.report(good.number, 1, {"accuracy": 0.8})
    assert search.report(bad.number, 1, {"accuracy": 0.1})
    before = file.read_bytes()
    again = Study(asha(), file)
    assert not again.report(good.number, 1, {"accuracy": 0.1})
    assert again.report(bad.number, 1, {"accuracy": 0.9})
    assert file.read_bytes() == before
    assert again.report(bad.number, 2, {"accuracy": 0.9})  # it was to stop, and went on


def test_a_search_killed_after_any_line_ends_as_if_it_had_not_been(tmp_path):
    plan = asha()
    whole = drive(Study(plan, tmp_path / "whole.journal"), 4)
    states = [record.state for record in whole.records()]
    assert set(states) == {"complete", "pruned"}
    lines = (tmp_path / "whole.journal").read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        file = tmp_path / f"{kept}.journal"
        file.write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
        assert drive(Study(plan, file), 4).records() == whole.records(), f"killed after line {kept}"


def test_a_torn_last_line_is_all_that_is_lost(tmp_path):
    file = tmp_path / "study.journal"
    search = Study(space(), file)
    kept, whole, lost = [search.propose()], file.read_bytes(), search.propose()
    for size in range(len(whole) + 1, len(file.read_bytes()), 97):
        torn = tmp_path / f"{size}.journal"
        torn.write_bytes(file.read_bytes()[:size])
        again = Study(space(), torn)
        assert torn.read_bytes() == whole
        assert again.unfinished() == kept
        assert again.propose() == lost


def test_the_lock_of_a_killed_writer_is_broken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path("out/study.journal")
    asked = Study(space(), file).propose()
    Path("out/study.journal.lock").touch()
    assert Study(space(), file).unfinished() == [asked]
    assert [path.name for path in Path("out").iterdir()] == ["study.journal"]


def test_records_hold_what_was_told(tmp_path):
    search = Study(asha(), tmp_path / "study.journal")
    for _ in range(5):
        search.propose()
    search.report(0, 1, {"accuracy": 0.5, "seconds": 2.5, "step": 10})
    search.report(0, 2, {"accuracy": 0.75, "seconds": 5.0, "step": 20})
    search.complete(0, {"accuracy": 0.75, "seconds": 5.5, "step": 25})
    search.report(1, 1, {"accuracy": 0.25, "step": 10})
    search.prune(1, {"accuracy": 0.25, "step": 10})
    search.fail(2, "CUDA out of memory\nat step 3")
    search.report(3, 1, {"accuracy": 0.625, "loss": math.inf, "step": 10})
    records = Study(asha(), tmp_path / "study.journal").records()
    assert [record.state for record in records] == ["complete", "pruned", "failed", "unfinished", "unfinished"]
    assert records[0].metrics == {"accuracy": 0.75, "seconds": 5.5}
    assert [record.step for record in records] == [25, 10, 0, 10, 0]
    assert records[0].reports == ((1, 0.5), (2, 0.75))
    assert records[2].error == "CUDA out of memory at step 3"
    assert records[3].metrics == {"accuracy": 0.625}
    assert records[4].metrics == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_metric_that_is_no_number_is_a_recorded_failure(tmp_path, bad):
    search = Study(asha(), tmp_path / "study.journal")
    search.complete(search.propose().number, {"accuracy": bad})
    assert search.report(search.propose().number, 1, {"accuracy": bad})
    search.prune(1, {"accuracy": bad})
    assert [(record.state, record.error) for record in search.records()] == [("failed", f"accuracy is {bad}")] * 2


def test_a_finished_trial_stays_as_it_is(tmp_path):
    search = Study(asha(), tmp_path / "study.journal")
    run(search, search.propose())
    before = search.records()
    search.fail(0, "too late")
    search.complete(0, {"accuracy": 0.0})
    assert not search.report(0, 9, {"accuracy": 0.0})
    assert search.records() == before


def test_a_file_of_another_search_is_refused_but_a_longer_one_goes_on(tmp_path):
    file = tmp_path / "study.journal"
    Study(asha(), file).propose()
    with pytest.raises(ValueError, match=r"has a search with another seed \(was the default, now 3\); use"):
        Study(asha(seed=3), file)
    with pytest.raises(ValueError, match="another constraints"):
        Study(asha(constraints=["window.low + 5 <= window.high"]), file)
    longer = asha().model_copy(update={"budget": asha().budget.model_copy(update={"samples": 100}), "name": "other"})
    assert len(Study(longer, file)) == 1


@pytest.mark.parametrize("content", [b"accuracy: 1\n", b"[1]\n", b'{"op_code": 99, "worker_id": "a"}\n', b"{}\n"])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, content):
    file = tmp_path / "study.journal"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"study\.journal is not the journal of a search, or is damaged; use"):
        Study(space(), file)
    assert file.read_bytes() == content
