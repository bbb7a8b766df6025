"""The league's plan: every search is possible at every scale, and the compute is divided equally."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from raydd.api import league
from raydd.api.campaign import _path_below
from raydd.api.league import search_space
from raydd.campaigns.cell_settings import Options
from raydd.campaigns.graph import build_graph
from raydd.campaigns.league import Entry, check_entries, column_of, learns, row_config, seconds_of, settled, share
from raydd.campaigns.plan import Column, League, Plan, Row, load_plan, make_plan
from raydd.campaigns.scales import SCALES
from raydd.config.parsing import merged, nested
from raydd.config.placement import Where
from raydd.evaluation.protocols import protocol_of
from raydd.io.console import Screen
from raydd.methods import METHODS
from raydd.run.resolve import check_settings
from raydd.tuning.results import AllTrialsFailed, Record

PLAN = load_plan("league")
OUT = "s3://key:secret@bucket/out"
SEARCHES = [
    (plan, name) for plan in ("league", "league_ipc10") for name, row in load_plan(plan).rows.items() if row.search
]


def test_every_method_that_learns_is_in_it():
    learning = {name for name in METHODS if row_of(name) and METHODS[name].match != "nothing"}
    assert learning == {name for name, method in METHODS.items() if method.match != "nothing"}


def row_of(method):
    return [name for name, row in PLAN.rows.items() if row.method == method and row.search]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("table", "name"), SEARCHES)
def test_its_search_can_be_done_and_begins_with_the_rows_own_settings(table, name, scale):
    plan, options = load_plan(table), Options(SCALES[scale])
    if not learns(plan, name, options):
        assert (name, scale) == ("CAFE", "paper"), "its settings are published for 10 images a class"
        return
    space = search_space(plan, plan.league, name, options, 50, None)
    own = row_config(plan, name, options)
    config = space.config(space.preset_values())
    ends = {key: domain.integer[1] for key, domain in space.narrowed.items() if domain.integer}
    assert ends.get("window.high", config.window.high or 0) + config.span <= config.experts.epochs
    assert (config.window.high or 0) + ends.get("span", config.span) <= config.experts.epochs
    assert (config.steps, config.evaluate_every, config.method) == (50, 50, own.method)
    assert config.experts == own.experts
    assert config.lr.images == own.lr.images
    assert len(space.domains) >= 1
    check_settings(config)


def test_real_images_are_seen_in_as_many_steps_as_a_set():
    """Ten images a step for 300 steps at the scale of a CPU, and for 1,000 at the papers'."""
    (name,) = (name for name, row in PLAN.rows.items() if row.times > 1)
    for scale, steps in (("cpu", 300), ("digits", 300), ("paper", 1000)):
        graph = build_graph([PLAN], Options(SCALES[scale]))
        found = {key for cell in graph.cells if cell.row == name for key in cell.scores}
        for scoring in (graph.scores[key] for key in found):
            run, images = graph.distillations[scoring.distillation].config, 10
            assert (run.method, run.ipc) == ("random", 100)
            assert scoring.config.batch_size == images
            protocol = protocol_of(scoring.config)
            assert math.ceil(run.ipc * 10 / protocol.batch_size) * protocol.epochs == steps
    larger = load_plan("league_ipc10")
    cells = [cell for cell in build_graph([larger], Options(SCALES["digits"])).cells if "1,000 real" in cell.row]
    assert [cell.missing for cell in cells] == ["digits has fewer than 1000 images a class"]


def test_what_a_row_has_exactly_stays_where_its_search_found_others():
    rows = {"BPTT": Row(method="bptt", exact={"ema": 0.95}, search={"lr.images": {"times": 10}})}
    plan = PLAN.model_copy(update={"rows": rows})
    entry = Entry(row="BPTT", seconds=60, step_seconds=1, experts_seconds=0, steps=7, values={"lr.images": 3.0})
    found = settled(plan, {"BPTT": entry}).rows["BPTT"].exact
    assert found == {"ema": 0.95, "steps": 7, "lr": {"images": 3.0}}


@pytest.mark.parametrize("change", [{"seconds": {"cpu": 60.0}}, {"trials": 7}, None])
def test_what_was_found_for_other_seconds_trials_or_sets_is_refused(change):
    options = Options(SCALES["cpu"])
    steps = share(PLAN, PLAN.league, 1200.0, 0.0, 0.5)
    entry = Entry(row="DM", seconds=1200.0, step_seconds=0.5, experts_seconds=0.0, steps=steps)
    check_entries(PLAN, {"DM": entry}, options, "out")
    changed = {"league": PLAN.league.model_copy(update=change)} if change else {"sets": 2}
    with pytest.raises(
        ValueError, match=f"out: DM was searched with {steps} steps a set, and campaign league gives it"
    ):
        check_entries(PLAN.model_copy(update=changed), {"DM": entry}, options, "out")


def test_a_search_keeps_to_the_given_workers_and_says_what_to_remove_where_all_its_trials_failed(monkeypatch):
    """The message is in tables and reports, so it has no secret of a URI."""
    asked = []

    def tune(space, out, **options):
        asked.append(options)
        raise AllTrialsFailed([Record(0, "failed", {}, {}, 0, (), "ValueError: no room")])

    monkeypatch.setattr(league, "tune", tune)
    monkeypatch.setattr(league, "location_of", lambda out: SimpleNamespace(has_search=lambda: False))
    entry = Entry(row="DM", seconds=60.0, step_seconds=1.0, experts_seconds=0.0, steps=7)
    for where in (Where(num_workers=3, gpus_per_worker=0.5), Where()):
        options = Options(SCALES["cpu"])
        search = league._Search(PLAN, PLAN.league, "DM", options, partial(_path_below, OUT), where, Screen())
        with pytest.raises(ValueError, match="all 1 trials failed: ValueError: no room; remove s3://bucket/out/league"):
            search.search(entry)
    assert [options.get("max_concurrent") for options in asked] == [3, None]
    assert [options.get("gpus_per_trial") for options in asked] == [0.5, None]


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ({"real": "random"}, {}, "R, .*: times = 10 is of a row with a method, such as random"),
        (
            {"method": "random", "preset": ""},
            {"dataset": "FOLDER"},
            "times = 10 needs the number of classes, which .* does not say; use exact",
        ),
        ({"method": "random", "preset": ""}, {}, "times = 10 leaves less than one of 5 epochs; lower it"),
    ],
)
def test_times_that_cannot_be_are_refused_in_one_line(row, column, words, tmp_path):
    """A user's own folder has no row in the table of data sets."""
    column = {key: value.replace("FOLDER", str(tmp_path)) for key, value in column.items()}
    tree = {"title": "", "rows": {"R": row | {"times": 10}}, "columns": [column], "epochs": 5}
    with pytest.raises(ValueError, match=words):
        build_graph([make_plan(tree, "small")], Options(SCALES["cpu"]))


def test_the_final_has_what_the_record_of_the_searches_has():
    """Both rows are the best of their kind on held-out images, and no set has a seed of the league."""
    path = Path(__file__).parents[2] / "benchmarks" / "league" / "league.json"
    found = {row["row"]: row["search"] for row in json.loads(path.read_text())["rows"] if row.get("search")}
    composed = [name for name in [*PLAN.rows][[*PLAN.rows].index("RDED") + 1 : -1] if name in found]
    single = [name for name in found if name not in composed and found[name]["accuracy"] is not None]
    best = [max(names, key=lambda name: found[name]["accuracy"]) for names in (single, composed)]
    plan = load_plan("league_final")
    assert [*plan.rows] == best
    graph = build_graph([plan], Options(SCALES["cpu"], seed=10))
    searched = build_graph([PLAN], Options(SCALES["cpu"])).distillations.values()
    for name, row in plan.rows.items():
        assert row.exact == merged(nested(found[name]["values"]), {"steps": found[name]["steps"]})
    assert {node.config.seed for node in graph.distillations.values()} == {10, 11, 12}
    assert {node.config.seed for node in searched}.isdisjoint({10, 11, 12})
    assert {scoring.config.seeds for scoring in graph.scores.values()} == {3}


def test_domains_that_leave_the_rows_own_values_out_are_refused():
    plan = PLAN.model_copy(update={"rows": {"DM": Row(method="dm", search={"lr.images": {"uniform": [2.0, 3.0]}})}})
    with pytest.raises(
        ValueError, match=r"rows\.DM\.search: the row's own values are outside these domains; widen them"
    ):
        search_space(plan, plan.league, "DM", Options(SCALES["cpu"]), 50, None)


def test_what_a_search_found_is_what_the_sets_are_made_with():
    entry = Entry(row="DM", seconds=60.0, step_seconds=0.5, experts_seconds=0.0, steps=700, values={"lr.images": 3.0})
    graph = build_graph([settled(PLAN, {"DM": entry})], Options(SCALES["cpu"], seed=5))
    runs = [node.config for node in graph.distillations.values() if node.config.method == "dm"]
    assert [(one.seed, one.steps, one.lr.images) for one in runs] == [(seed, 700, 3.0) for seed in (6, 7, 8)]
    experts = {node.experts for node in graph.distillations.values() if node.config.method == "ftd"}
    assert len(experts) == 1, "sets of other seeds share the experts"
    (cell,) = [cell for cell in graph.cells if cell.row == "DM" and cell.network == "ConvNetW32"]
    assert len(cell.scores) == 3


@pytest.mark.parametrize(("experts", "step", "steps"), [(0.0, 1.0, 10), (50.0, 0.5, 10), (90.0, 1.0, 1)])
def test_experts_count_and_what_they_leave_is_divided_equally(experts, step, steps):
    plan = Plan(title="", rows={"MTT": Row(method="mtt")}, columns=(Column(),), sets=4)
    assert share(plan, League(seconds={"cpu": 100.0}, trials=6), 100.0, experts, step) == steps
    with pytest.raises(ValueError, match=r"leaves no step for each of 10 distillations; raise league\.seconds"):
        share(plan, League(seconds={"cpu": 100.0}, trials=6), 100.0, experts, 11.0)


def test_real_images_stand_beside_a_set_of_the_columns_size():
    graph = build_graph([settled(PLAN, {})], Options(SCALES["digits"]))
    for row in ("Random", "K-means", "Herding"):
        (cell,) = [cell for cell in graph.cells if cell.row == row and cell.network == "ConvNetW32"]
        config = graph.distillations[graph.scores[cell.score].distillation].config
        assert (config.ipc, config.formation.factor) == (1, 1)


def test_real_images_are_whitened_unless_their_row_says_otherwise():
    """The first row that has a set decides it: one without ZCA before the methods would change these rows."""
    graph = build_graph([settled(PLAN, {})], Options(SCALES["cpu"]))
    for cell in (cell for cell in graph.cells if cell.row.partition(" without")[0] in ("Random", "K-means", "Herding")):
        data = graph.distillations[graph.scores[cell.score].distillation].config.data
        assert data.preprocessing == ("normalise" if "without" in cell.row else "zca"), cell.row


def test_what_it_cannot_do_is_said():
    wide = PLAN.model_copy(update={"columns": (Column(ipc=(1, 10)),)})
    with pytest.raises(ValueError, match="settings are searched for one column, and it has 2"):
        column_of(wide)
    without = League(seconds={"paper": 9.0})
    with pytest.raises(ValueError, match="has no compute for --scale cpu; use one of paper"):
        seconds_of(PLAN, without, Options(SCALES["cpu"]))
