"""Plans of campaigns: the shipped tables, and what is refused of a user's own."""

import pytest
import yaml

from raydd.campaigns.cell_settings import Options, check_options
from raydd.campaigns.graph import build_graph
from raydd.campaigns.plan import Published, campaigns, load_plan, published_values
from raydd.campaigns.scales import SCALES

SMALL = {"title": "a table", "columns": [{"dataset": "digits", "ipc": [1, 10]}], "rows": {"MTT": "mtt"}}

# Every results table of the five papers, with its rows and columns as they are printed.
TABLES = {
    "tgdd_table1": (15, 12),
    "tgdd_table2": (7, 12),
    "tgdd_table3": (6, 2),
    "tgdd_table4": (4, 4),
    "ast_table1": (3, 1),
    "ast_table3": (13, 8),
    "ast_table4": (5, 1),
    "ast_table5": (4, 8),
    "ast_table6": (1, 8),
    "ast_table7": (4, 2),
    "ast_table8": (5, 1),
    "mct_table1": (9, 9),
    "mct_table2": (2, 5),
    "mct_table3": (5, 3),
    "datm_table1": (13, 12),
    "datm_table2a": (4, 1),
    "datm_table2b": (4, 1),
    "datm_table2c": (4, 1),
    "datm_table3": (3, 9),
    "datm_table4": (4, 3),
    "datm_table5": (3, 3),
    "datm_a2": (3, 1),
    "dpd_table2": (10, 9),
    "dpd_table3": (1, 9),
    "dpd_table4": (6, 3),
    "dpd_table5": (4, 1),
    "dpd_table6": (2, 3),
    "datm_fig3a": (2, 1),
    "datm_fig3b": (6, 1),
    "tgdd_fig5": (3, 1),
    "tgdd_fig6b": (6, 1),
    "field_cifar10": (16, 1),
    "league": (43, 1),
    "league_ipc10": (17, 1),
    "league_final": (2, 1),
}
UNBUILT = {"KIP", "PP"}


def test_every_results_table_is_shipped():
    assert {
        name: (len(plan.rows), len(plan.single_columns())) for name in campaigns() if (plan := load_plan(name))
    } == (TABLES)


@pytest.mark.parametrize(
    ("name", "row", "place", "value"),
    [
        ("tgdd_table1", "TGDD", 4, Published(71.9, 0.3)),
        ("tgdd_table1", "MTT", 0, None),
        ("tgdd_table3", "DANCE", 5, Published(64.8, 0.3)),
        ("ast_table3", "AST", -1, Published(25.7, 1.1)),
        ("datm_table1", "DATM", 4, Published(85.5, 0.4)),
        ("datm_table4", "Forgetting", 8, Published(45.52)),
        ("dpd_table2", "DPD", -1, Published(40.8, 0.2)),
        ("mct_table2", "with continuous sampling", 0, Published(56.2, 0.3)),
    ],
)
def test_published_values_stand_where_the_paper_has_them(name, row, place, value):
    assert published_values(load_plan(name))[row][place] == value


def test_rows_without_a_method_say_so_and_no_other_row_is_left_out():
    """At the digits' scale all presets exist, so what is missing is what raydd does not have at all."""
    plans = [load_plan(name) for name in campaigns()]
    graph = build_graph(plans, Options(SCALES["digits"]))
    missing = {cell.row for cell in graph.cells if cell.missing}
    assert missing == UNBUILT | {"DATM without its alignment", "As many steps on 1,000 real images a class"}
    assert len(graph.cells) == sum(len(plan.rows) * len(plan.single_columns()) * len(plan.networks) for plan in plans)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"rows": {"MTT": "mttt"}}, "unknown method 'mttt'"),
        ({"rows": {"MTT": {"method": "mtt", "real": "random"}}}, "rows.MTT needs one of method, real and missing"),
        ({"rows": {"R": {"real": "best"}}}, "rows.R.real: 'best' is unknown; use one of whole, random"),
        ({"rows": {"A": {"method": "mtt", "ablation": "DM"}}}, "'DM' is no row of mtt's; it has none"),
        ({"rows": {"A": {"method": "mtt", "protocol": "mine"}}}, "unknown protocol 'mine'"),
        ({"published": {"MTT": "1 2 3"}}, "published.MTT has 3 values for 2 columns; - stands for none"),
        ({"published": {"DM": "1 2"}}, "published.DM: there is no such row; name one of MTT"),
        ({"published": {"MTT": "1 a"}}, "published.MTT: 'a' is no value; write one as 46.3±0.8, 46.3 or -"),
        ({"columns": [{"dataset": "digit", "ipc": 1}]}, "unknown data set 'digit': did you mean digits?"),
        ({"columns": []}, "columns"),
        ({"networks": ["ConvNett"]}, "unknown network 'ConvNett'"),
        ({"rows": {"A": {"method": "mtt", "set": {"stepps": 1}}}}, "stepps"),
        ({"colums": []}, "colums"),
        ({"most": {"step": 3}}, "most.step is no bound of a scale; use some of ipc, steps"),
        ({"rows": {"A": {"method": "mtt", "search": {"lr.images": {"times": 3}}}}}, "rows.A.search needs league"),
        ({"measure": "rank correlation"}, "every column of a rank correlation needs top, and no other has it"),
        ({"columns": [{"dataset": "digits", "ipc": [1, 10], "top": 5}]}, "measure: accuracy: every column of a rank"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_a_line(tmp_path, layer, said):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL | layer))
    with pytest.raises(ValueError, match="mine") as refusal:
        build_graph([load_plan(str(path))], Options(SCALES["digits"]))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_plan_names_what_is_near():
    with pytest.raises(ValueError, match=r"'tgdd_table' is neither .*; did you mean tgdd_table4"):
        load_plan("tgdd_table")


def test_a_row_may_be_a_word_and_settings_may_have_dots(tmp_path):
    path = tmp_path / "mine.yaml"
    rows = {"a": "dm", "b": "random", "c": {"method": "mtt", "set": {"lr.images": 3}, "exact": {"lr.start": 1}}}
    path.write_text(yaml.safe_dump(SMALL | {"rows": rows}))
    plan = load_plan(str(path))
    assert (plan.rows["a"].method, plan.rows["b"].real) == ("dm", "random")
    assert plan.rows["c"].set == {"lr": {"images": 3}}
    assert plan.rows["c"].exact == {"lr": {"start": 1}}
    assert (plan.name, [column.ipc for column in plan.single_columns()]) == ("mine", [(1,), (10,)])


@pytest.mark.parametrize("row", ["Random", "DM", "MTT", "Full dataset"])
def test_a_row_alone_needs_what_its_cells_need_in_the_whole_table(row):
    graph = build_graph([load_plan("datm_table1"), load_plan("tgdd_table1")], Options(SCALES["cpu"]))
    part = graph.part([row])
    assert part.cells == [cell for cell in graph.cells if cell.row == row] != []
    for cell in part.cells:
        for score in cell.scores:
            assert part.scores[score] == graph.scores[score]
            assert {*part.requirements(score)} <= {*part.distillations, *part.experts}
    assert len(part.distillations) < len(graph.distillations)
    assert graph.part([]) is graph


def test_a_row_that_no_table_has_is_refused_with_a_near_one():
    with pytest.raises(ValueError, match=r"unknown row of league 'bppt': did you mean BPTT"):
        check_options([load_plan("league")], Options(SCALES["cpu"], rows=("DM", "bppt")))
    both = [load_plan("league"), load_plan("tgdd_table4")]
    check_options(both, Options(SCALES["cpu"], {"cifar10": "/data"}, rows=("+ multi-formation",)))


@pytest.mark.parametrize(
    ("scale", "name", "hint"),
    [
        ("cpu", "cifar-10", "did you mean cifar10"),
        ("cpu", "mnist", "use one of cifar10"),
        ("digits", "cifar10", "digits"),
    ],
)
def test_data_that_no_table_asks_for_are_refused(scale, name, hint):
    """They would be ignored, and others of a near name downloaded instead."""
    with pytest.raises(ValueError, match=f"unknown data set of league '{name}': .*{hint}"):
        check_options([load_plan("league")], Options(SCALES[scale], {name: "/data"}))
