"""The graph of plans: what cells share is there once, at every scale."""

import time

import pytest

from raydd.campaigns.cell_settings import Options, distill_config
from raydd.campaigns.graph import build_graph
from raydd.campaigns.plan import Column, Plan, Row, campaigns, load_plan
from raydd.campaigns.scales import SCALES
from raydd.config.schema import DistillConfig
from raydd.methods import complete
from raydd.run.resolve import check_settings, check_start, needs_experts

PAPER = Options(SCALES["paper"])


@pytest.fixture(scope="module")
def plans():
    return [load_plan(name) for name in campaigns()]


def test_the_largest_graph_is_built_in_under_two_seconds(plans):
    start = time.process_time()
    graph = build_graph(plans, PAPER)
    assert time.process_time() - start < 2
    assert len(graph.cells) > 1000


@pytest.mark.parametrize("scale", SCALES)
def test_every_distillation_is_one_that_can_start(plans, scale):
    graph = build_graph(plans, Options(SCALES[scale]))
    for node in graph.distillations.values():
        check_settings(node.config)
        check_start(node.config, node.config.experts.epochs)
        assert bool(node.experts) == needs_experts(node.config)
        assert node.config.threads == 1
    names = [node.name for node in graph.distillations.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_has_scores_or_a_reason_and_needs_what_is_there(plans, scale):
    graph = build_graph(plans, Options(SCALES[scale]))
    for cell in graph.cells:
        assert bool(cell.score) != bool(cell.missing)
        if cell.score:
            keys = graph.all_requirements([cell.score])
            assert all(key in graph.experts or key in graph.distillations or key in graph.scores for key in keys)
            scoring = graph.scores[cell.score]
            assert cell.network == "" if scoring.ranking else cell.network in scoring.config.networks
    used = {key for cell in graph.cells for score in cell.scores for key in graph.all_requirements([score])}
    assert used == {*graph.experts, *graph.distillations, *graph.scores}


def test_a_ranking_is_one_for_all_its_columns_and_as_large_as_the_scale_says(plans):
    for scale, count in (("paper", 720), ("digits", 24)):
        graph = build_graph(plans, Options(SCALES[scale]))
        cells = [cell for cell in graph.cells if cell.plan == "dpd_table6"]
        keys = {cell.row: {other.score for other in cells if other.row == cell.row} for cell in cells}
        assert [(cell.row, cell.top) for cell in cells] == [
            (row, top) for top in (5, 10, 20) for row in ("DATM", "DPD")
        ]
        assert all(len(scores) == 1 for scores in keys.values())
        assert keys["DATM"] != keys["DPD"]
        for (key,) in keys.values():
            scoring = graph.scores[key]
            assert (scoring.trainings, scoring.ranking.top) == (count, (5, 10, 20))
            assert scoring.ranking.split == "test"


def test_equal_runs_of_several_tables_are_one(plans):
    """DATM's own row stands in four tables; TGDD's whole ablation is its row in Table 1."""
    graph = build_graph(plans, PAPER)
    runs = {(cell.plan, cell.row, cell.column): cell.distillation for cell in graph.cells if cell.distillation}
    datm = {runs[name, "DATM", "cifar100, ipc 50"] for name in ("datm_table1", "datm_table2a", "dpd_table2")}
    assert len(datm | {runs["datm_table2b", "both", "cifar100, ipc 50"]}) == 1
    whole = runs["tgdd_table4", "+ stage-wise constraint", "cifar10, ipc 10"]
    assert whole == runs["tgdd_table1", "TGDD", "cifar10, ipc 10"] == runs["tgdd_table3", "TGDD", "cifar10, ipc 10"]
    assert sum(len(graph.requirements(key)) for key in graph.distillations) > len(graph.experts)


def test_at_the_papers_scale_a_cell_is_the_preset_itself():
    config = distill_config(Row(method="datm"), Column(dataset="cifar10", ipc=(50,)), PAPER)
    assert (config.steps, config.student_steps, config.ipc) == (10000, 80, 50)
    assert (config.experts.network, config.experts.num_experts, config.window.high) == ("ConvNet", 100, 40)
    assert config.preset == "cifar10/datm.yaml, ipc 50"


def test_an_ablation_is_the_row_of_its_method():
    column = Column(dataset="cifar10", ipc=(10,))
    plain = distill_config(Row(method="tgdd", ablation="DM"), column, PAPER)
    whole = distill_config(Row(method="tgdd"), column, PAPER)
    assert (plain.statistic.networks, plain.formation.factor, plain.statistic.alpha) == ("random", 1, 0.0)
    assert whole == distill_config(Row(method="tgdd", ablation="+ stage-wise constraint"), column, PAPER)
    assert whole == complete(whole)


def test_smaller_scales_have_no_larger_value(plans):
    """But for settings that a row has over those of the scale."""
    plans = [plan for plan in plans if not any(row.exact or row.times > 1 for row in plan.rows.values())]
    for name in ("cpu", "digits"):
        scale = SCALES[name]
        for node in build_graph(plans, Options(scale)).distillations.values():
            config = node.config
            assert config.steps <= scale.most["steps"]
            assert config.ipc <= scale.most["ipc"]
            assert config.experts.epochs <= scale.most["experts.epochs"]
            assert config.experts.num_experts <= scale.most["experts.num_experts"]
            assert config.experts.network not in scale.networks


def test_of_a_students_steps_those_shrink_that_the_gradient_goes_through():
    """A window of 60 of 200 becomes 20 of 66, and a path without one 20."""
    plan = Plan(title="", rows={name: Row(method=name) for name in ("bptt", "ratbptt", "atbptt")}, columns=(Column(),))
    nodes = build_graph([plan], Options(SCALES["cpu"])).distillations.values()
    found = {
        node.config.method: (node.config.student_steps, node.config.unrolled.window, node.config.unrolled.radius)
        for node in nodes
    }
    published = complete(DistillConfig(method="atbptt"))
    assert (published.student_steps, published.unrolled.window) == (200, 60)
    radius = int(published.unrolled.radius / 3)
    assert found == {"bptt": (20, None, 0), "ratbptt": (66, 20, 0), "atbptt": (66, 20, radius)}


COUNTS = {
    "datm": (lambda config: config.window.interval, {"window": {"interval": 100}}, 10),
    "ncfm": (lambda config: config.lr.patience, {"lr": {"patience": 500}}, 50),
    "dsdm": (lambda config: config.statistic.history_from, {"statistic": {"history_from": 2000}}, 200),
    "ftd": (lambda config: config.ema, {"ema": 0.9995}, 0.9995**10),
}


@pytest.mark.parametrize("method", COUNTS)
def test_what_counts_outer_steps_shrinks_with_their_number_unless_it_is_set(method):
    of, published, expected = COUNTS[method]

    def config(exact, options):
        row = Row(method=method, preset="", set=published | {"steps": 1000}, exact=exact)
        return distill_config(row, Column(), options)

    assert of(config({"steps": 100}, Options(SCALES["cpu"]))) == pytest.approx(expected, rel=1e-12)
    assert of(config({"steps": 100} | published, Options(SCALES["cpu"]))) == of(config({}, PAPER))
    assert of(config({"steps": 2000}, PAPER)) == of(config({}, PAPER)) != expected


def test_a_path_takes_the_place_of_a_named_data_set(tmp_path):
    options = Options(SCALES["cpu"], {"cifar10": str(tmp_path)})
    config = distill_config(Row(method="mtt"), Column(dataset="cifar10", ipc=(10,)), options)
    assert config.data.dataset == str(tmp_path)
    assert config.data.preprocessing == "zca"  # the preset is that of the named one


def test_settings_of_the_user_lie_over_all_others():
    options = Options(SCALES["digits"], set={"steps": 3})
    assert distill_config(Row(method="dm"), Column(ipc=(1,)), options).steps == 3


def test_steps_are_kept_where_the_best_on_test_is_asked_for():
    options = Options(SCALES["digits"], paper=True)
    config = distill_config(Row(method="dm"), Column(ipc=(1,)), options)
    assert (config.keep_scored, config.evaluate_every) == (True, 4)
    plan = load_plan("tgdd_table4")
    graph = build_graph([plan], options)
    assert all(node.config.paper for node in graph.scores.values())


def test_selections_that_ask_experts_are_given_those_of_their_column():
    graph = build_graph([load_plan("datm_table4")], PAPER)
    asked = [graph.scores[cell.score] for cell in graph.cells if cell.row == "Forgetting"]
    assert asked
    assert all(scoring.experts == graph.distillations[scoring.distillation].experts != "" for scoring in asked)
    assert all(scoring.config.baselines == ("forgetting",) for scoring in asked)


def test_a_setting_that_cannot_be_names_the_cell():
    plan = load_plan("tgdd_table4")
    with pytest.raises(
        ValueError, match=r"campaign tgdd_table4, DM, cifar10, ipc 10: window.interval = 5 means nothing"
    ):
        build_graph([plan], Options(SCALES["digits"], set={"window": {"interval": 5}}))
    rows = {
        "Random": Row(real="random"),
        "DM": Row(method="dm", set={"window": {"interval": 5}}),
        "DC": Row(method="dc"),
    }
    with pytest.raises(ValueError, match=r"^campaign mine, DM, cifar10, ipc 1: window.interval = 5 means nothing"):
        build_graph([Plan(name="mine", title="", rows=rows, columns=(Column(),))], Options(SCALES["digits"]))
