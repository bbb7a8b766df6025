"""Rows of a search, its winner and front, and which settings mattered."""

import math

import pyarrow.parquet as pq
import pytest
import torch

from raydd.tuning.figure_files import _study_of, save_figures
from raydd.tuning.importance import importance
from raydd.tuning.results import (
    AllTrialsFailed,
    Record,
    accuracy_of,
    front,
    load_results,
    rows_of,
    save_results,
    scales,
    winner,
)
from raydd.tuning.space import Space

ONE = {"accuracy": "max"}
TWO = {"accuracy": "max", "seconds": "min"}
DOMAINS = {
    "window.low": {"integer": (0, 10)},
    "lr.images": {"log_uniform": (1, 1000)},
    "labels.mode": {"choice": ["hard", "soft"]},
    "lr.labels": {"uniform": (0, 1), "when": "labels.mode == 'soft'"},
}
SPACE = Space.model_validate({"name": "datm_toy", "method": "datm", "domains": DOMAINS})


def record(number, accuracy=None, state="complete", values=None, **more):
    metrics = more.pop("metrics", {} if accuracy is None else {"accuracy": accuracy, "seconds": 2.0})
    reports = more.pop("reports", () if accuracy is None else ((1, accuracy),))
    return Record(number, state, values or {}, metrics, more.pop("step", 10), reports, more.pop("error", ""))


def drawn(count, accuracy, seed=0):
    """Trials of SPACE at random, with an accuracy computed from their values."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        low, images, mode, labels = torch.rand(4, generator=rng, dtype=torch.float64).tolist()
        values = {"window.low": int(11 * low), "lr.images": 1000**images, "labels.mode": ["hard", "soft"][mode > 0.5]}
        if values["labels.mode"] == "soft":
            values["lr.labels"] = labels
        found.append(record(number, accuracy(values), values=values))
    return found


def test_rows_survive_the_file(tmp_path):
    records = [
        record(2, state="failed", values={"lr.images": 5}, metrics={"accuracy": math.nan}, error="NaN in the loss"),
        record(0, 0.5, values={"lr.images": 2.5, "flip": True, "metric": "abs", "steps": 5, "rates": [0.1, 0.2]}),
        record(1, 0.75, "pruned", {"lr.images": 3, "flip": False, "rates": None}, metrics={"accuracy": 0.75, "mb": 9}),
    ]
    rows = load_results(save_results(records, tmp_path / "new" / "results.parquet"))
    assert rows == rows_of(records)
    assert [list(row) for row in rows] == [list(rows[0])] * 3
    assert list(rows[0])[:4] == ["trial", "state", "accuracy", "seconds"]
    assert [row["trial"] for row in rows] == [0, 1, 2]
    assert [row["state"] for row in rows] == ["complete", "pruned", "failed"]
    assert [row["accuracy"] for row in rows] == [0.5, 0.75, None]
    assert [row["seconds"] for row in rows] == [2.0, None, None]
    assert [row["mb"] for row in rows] == [None, 9.0, None]
    assert [row["error"] for row in rows] == ["", "", "NaN in the loss"]
    assert [row["settings.lr.images"] for row in rows] == [2.5, 3.0, 5.0]
    assert [row["settings.flip"] for row in rows] == [True, False, None]
    assert [row["settings.metric"] for row in rows] == ["abs", None, None]
    assert [row["settings.steps"] for row in rows] == [5, None, None]
    assert [row["settings.rates"] for row in rows] == ["[0.1,0.2]", "null", None]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.parquet"]


def test_kinds_of_the_columns_do_not_depend_on_what_failed(tmp_path):
    path = save_results([record(0, state="failed", values={"steps": 5})], tmp_path / "results.parquet")
    kinds = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert kinds["accuracy"] == kinds["seconds"] == "double"
    assert (kinds["trial"], kinds["step"], kinds["settings.steps"]) == ("int64",) * 3


def test_a_choice_of_mixed_kinds_is_text():
    values = [None, 3, 0.5, "abs", True, [1]]
    rows = rows_of([record(number, values={"key": value}) for number, value in enumerate(values)])
    assert [row["settings.key"] for row in rows] == ["null", "3", "0.5", "abs", "true", "[1]"]


def test_no_trial_makes_an_empty_table(tmp_path):
    path = save_results([], tmp_path / "results.parquet")
    assert load_results(path) == []
    assert {"trial", "state", "accuracy", "seconds", "step", "error"} == set(pq.read_schema(path).names)


def test_a_file_of_something_else_is_refused(tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read .*--resume") as caught:
        load_results(broken)
    assert "\n" not in str(caught.value)
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(save_results([], tmp_path / "r.parquet")).select(["trial"]), other)
    with pytest.raises(ValueError, match=r"other\.parquet has no columns .*results\.parquet of a search"):
        load_results(other)


def test_the_accuracy_of_a_trial_is_its_metric_or_its_best_report():
    assert accuracy_of(record(0, 0.5)) == 0.5
    assert accuracy_of(record(0, metrics={}, reports=((1, 0.25), (2, 0.5), (3, math.nan)))) == 0.5
    assert accuracy_of(record(0, metrics={"accuracy": math.nan}, reports=())) is None
    assert accuracy_of(record(0)) is None


def test_the_winner_is_complete_and_of_ties_the_first():
    records = [record(3, 0.5), record(1, 0.5), record(2, 0.25), record(0, 0.9, "pruned"), record(4, 0.95, "failed")]
    assert winner(records, ONE).number == 1
    assert winner(records, TWO).number == 1
    assert winner([*records, record(5, 0.75)], ONE).number == 5


def test_without_a_complete_trial_the_best_of_the_others_wins():
    records = [record(0, 0.5, "pruned"), record(1, 0.75, "unfinished"), record(2, 0.9, "failed"), record(3)]
    assert winner(records, ONE).number == 1
    assert winner([record(0, state="failed"), record(1, state="unfinished")], ONE) is None
    assert winner([], ONE) is None


def naive_front(points):
    """Numbers of the points (accuracy, seconds) for which no other is as good in both and better in one."""
    return [
        index
        for index, (a, s) in enumerate(points)
        if not any(b >= a and t <= s and (b > a or t < s) for b, t in points)
    ]


def test_the_front_is_what_nothing_beats():
    rng = torch.Generator().manual_seed(0)
    points = torch.randint(0, 8, (40, 2), generator=rng).tolist()  # with ties and repeats
    records = [record(n, metrics={"accuracy": a / 8, "seconds": float(s)}) for n, (a, s) in enumerate(points)]
    expected = naive_front(points)
    assert [one.number for one in front(records[::-1], TWO)] == expected
    assert 1 < len(expected) < 40
    best = max(a for a, _ in points)
    assert {one.metrics["accuracy"] for one in front(records, ONE)} == {best / 8}


def test_only_complete_trials_with_both_metrics_are_on_the_front():
    records = [
        record(0, metrics={"accuracy": 0.9}),
        record(1, metrics={"accuracy": 0.9, "seconds": 1.0}, state="pruned"),
        record(2, metrics={"accuracy": 0.5, "seconds": 3.0}),
        record(3, metrics={"accuracy": math.nan, "seconds": 1.0}),
    ]
    assert [one.number for one in front(records, TWO)] == [2]


def test_scales_of_the_axes():
    assert scales(SPACE) == {"window.low": "linear", "lr.images": "log", "labels.mode": "choice", "lr.labels": "linear"}


@pytest.mark.parametrize(
    ("key", "accuracy"),
    [
        ("window.low", lambda values: 0.3 + 0.05 * values["window.low"]),
        ("lr.images", lambda values: 0.5 + 0.1 * math.log10(values["lr.images"])),
        ("labels.mode", lambda values: 0.25 + 0.5 * (values["labels.mode"] == "soft")),
    ],
)
def test_the_one_setting_that_matters_has_all_the_importance(key, accuracy):
    found = importance(drawn(60, accuracy), SPACE)
    assert next(iter(found)) == key
    assert found[key] > 0.9
    assert set(found) == set(DOMAINS)
    assert math.fsum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_setting_under_a_condition_has_its_part_of_the_variance():
    # The soft trials spread evenly over 0.5 ± 0.25, the hard ones all stand at 0.5.
    found = importance(drawn(80, lambda values: 0.25 + 0.5 * values.get("lr.labels", 0.5)), SPACE)
    assert found["lr.labels"] > 2 * max(share for key, share in found.items() if key != "lr.labels")
    assert math.fsum(found.values()) == pytest.approx(1)
    # With the modes 1 apart its part is (var(U / 2) / 2) / (var(U / 2) / 2 + 1 / 4), which is 0.04.
    trials = drawn(80, lambda values: 0.5 * values.get("lr.labels", 0.5) + (values["labels.mode"] == "soft"))
    found = importance(trials, SPACE)
    assert found["labels.mode"] > 0.9
    assert 0.02 < found["lr.labels"] < 0.08


def test_importance_is_of_the_seed_and_of_the_trials_in_any_order():
    trials = drawn(20, lambda values: 0.1 * values["window.low"] + 0.01 * math.sin(values["lr.images"]))
    found = importance(trials, SPACE)
    assert importance(trials[::-1], SPACE) == found
    assert importance(trials, SPACE.model_copy(update={"seed": 1})) != found


def test_pruned_trials_count_and_failed_ones_do_not():
    trials = drawn(20, lambda values: 0.05 * values["window.low"])
    found = importance(trials, SPACE)
    others = [record(20 + n, 0.9, state, {"window.low": 0}) for n, state in enumerate(("failed", "unfinished"))]
    assert importance(trials + others, SPACE) == found
    assert importance([*trials, record(22, 0.9, "pruned", {"window.low": 0})], SPACE) != found


def test_where_nothing_can_be_told_there_is_no_importance():
    values = {"window.low": 1}
    assert importance([], SPACE) == {}
    assert importance([record(0, 0.5, values=values)], SPACE) == {}
    assert importance([record(0, 0.5, values=values), record(1, 0.7, values=values)], SPACE) == {}
    assert importance([record(n, 0.1, values={"window.low": n}) for n in range(3)], SPACE) == {}
    close = [record(n, 0.1 * n, values={"lr.labels": 0.5 + n * 1e-12}) for n in range(3)]
    assert importance(close, SPACE) == {}


def test_choices_of_lists_and_values_outside_the_domain_are_judged():
    space = Space.model_validate(
        {"method": "datm", "domains": {"lr.images": {"log_uniform": (1, 10)}, "rates": {"choice": [None, [0.1, 0.2]]}}}
    )
    accuracies = [(0.5 * 10 ** (n / 4), [None, [0.1, 0.2]][n % 2]) for n in range(12)]  # from 0.5 to 280
    trials = [
        record(n, 0.2 + 0.5 * (rates is None), values={"lr.images": images, "rates": rates})
        for n, (images, rates) in enumerate(accuracies)
    ]
    found = importance(trials, space)
    assert found["rates"] > 0.9
    assert set(found) == {"lr.images", "rates"}


def test_figures_that_apply_are_written(tmp_path):
    trials = drawn(8, lambda values: 0.05 * values["window.low"])
    paths = save_figures(trials, SPACE, tmp_path / "figures")
    assert set(paths) == {"history", "values", "parallel", "importance"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{name}.png" for name in paths}
    both = SPACE.model_copy(update={"metrics": ("accuracy", "seconds")})
    assert set(save_figures(trials, both, tmp_path)) == {*paths, "pareto"}
    assert set(save_figures(trials[:1], SPACE, tmp_path)) == {"history", "values", "parallel"}


def test_without_a_score_there_is_no_figure(tmp_path):
    failed = [record(0, state="failed", values={"window.low": 1}), record(1, state="unfinished")]
    assert save_figures(failed, SPACE, tmp_path / "figures") == {}
    assert not (tmp_path / "figures").exists()


def test_the_reason_that_failed_trials_share_is_one_line() -> None:
    same = [record(number, state="failed", error="ValueError: no room") for number in range(3)]
    assert str(AllTrialsFailed(same)).startswith("all 3 trials failed: ValueError: no room; correct the space")
    other = record(3, state="failed", error="RuntimeError: died")
    assert str(AllTrialsFailed([*same, other])).startswith("all 4 trials failed, 3 of them for this reason: ValueError")


@pytest.mark.slow
def test_figures_leave_pyplot_as_it_was_and_settings_that_only_some_trials_have_are_drawn(tmp_path):
    import matplotlib
    import matplotlib.pyplot as plt

    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    trials = drawn(8, lambda values: 0.05 * values["window.low"] + 0.1 * values.get("lr.labels", 0.0))
    first = save_figures(trials, SPACE, tmp_path / "a")
    second = save_figures(trials, SPACE, tmp_path / "b")
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == open_figures
    assert all(path.read_bytes() == second[name].read_bytes() for name, path in first.items())
    study = _study_of(rows_of(trials), list(DOMAINS), scales(SPACE))
    assert len(study.trials) == len(trials)
    assert [set(trial.params) for trial in study.trials] == [set(trial.values) for trial in trials]
    assert [trial.value for trial in study.trials] == [100 * accuracy_of(trial) for trial in trials]
