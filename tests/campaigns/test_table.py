"""The table of a campaign: measured values beside published ones."""

import json

import pytest
from scipy.stats import ttest_ind

from raydd.campaigns.cell_settings import Options
from raydd.campaigns.graph import build_graph
from raydd.campaigns.plan import load_plan, make_plan
from raydd.campaigns.scales import SCALES
from raydd.campaigns.table import CampaignDocument, Costs, Measured, Spent, campaign_document, spent_before
from raydd.data.score_record import Score
from raydd.evaluation.scores import best_of_steps
from raydd.figures.campaign import campaign_rows, missing_lines
from raydd.io.document import validate, write_document
from raydd.report.campaign import campaign_headline, campaign_sections


def score(key, network, values, **more):
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    common = {"kind": "distilled", "dataset": "cifar10", "protocol": "tgdd", "selection": "honest", "ipc": 10}
    numbers = {"networks": len(values), "mean": mean, "std": std, "values": values, "seconds": 1.0, "commits": ()}
    return Score(name=key, network=network, **(common | numbers | {"asked": True} | more))


def table(scale, plan="tgdd_table4", values=(0.71, 0.72, 0.73, 0.70, 0.72), failed=None, **more):
    plans, options = [load_plan(plan)], Options(SCALES[scale])
    graph = build_graph(plans, options)
    cell = next(cell for cell in graph.cells if cell.score)
    scores = {cell.score: [score(cell.score, cell.network, values, **more)]}
    measured = Measured(scores, {cell.distillation: Costs(120.0, 512.0, 60)}, failed or {})
    document = campaign_document(plans, options, graph, measured)
    assert validate(CampaignDocument, json.loads(json.dumps(document)))
    return document, document["cells"][graph.cells.index(cell)]


def test_a_cell_is_compared_with_the_published_value_at_the_papers_scale():
    values = (0.71, 0.72, 0.73, 0.70, 0.72)
    _, cell = table("paper", values=values)
    assert (cell["published"], cell["published_std"]) == (55.2, 0.2)
    assert cell["mean"] == pytest.approx(0.716)
    assert cell["difference"] == pytest.approx(71.6 - 55.2)
    # five numbers of mean 55.2 and deviation 0.2
    paper = [
        55.2 + 0.2 * x for x in (-1.2649110640673518, -0.6324555320336759, 0.0, 0.6324555320336759, 1.2649110640673518)
    ]
    assert cell["p"] == pytest.approx(ttest_ind([100 * v for v in values], paper, equal_var=False).pvalue)
    assert (cell["seconds"], cell["memory_mb"]) == (120.0, 512.0)
    assert cell["missing"] == ""


def test_other_scales_are_not_compared():
    document, cell = table("digits")
    assert cell["mean"] == pytest.approx(0.716)
    assert cell["difference"] is cell["p"] is None
    (title, rows), *_ = campaign_rows(document).items()
    assert title.endswith("measured (published), scale digits")
    assert rows[0]["cifar10, ipc 10"] == "71.6 ± 1.1 (55.2)"
    assert rows[1]["cifar10, ipc 10"] == "71.6 ± 1.1 (63.2)"  # on digits the same run
    assert rows[2]["cifar10, ipc 10"] == "- (65.8)"


@pytest.mark.parametrize(("plan", "published"), [("field_cifar10", False), ("tgdd_table4", True)])
def test_a_plan_without_published_values_speaks_of_none(plan, published, tmp_path):
    document, _ = table("digits", plan)
    title = next(iter(campaign_rows(document)))
    (tmp_path / "campaign.json").write_text(json.dumps(document))
    (section,) = campaign_sections(tmp_path)
    assert ("published" in title) == published
    for words in ("Published values are", "(published)", ">published<"):
        assert (words in section.body) == published
    assert "measured value is the mean over networks" in " ".join(section.body.split())


def test_a_difference_that_is_no_chance_has_a_star():
    document, _ = table("paper")
    rows = next(iter(campaign_rows(document).values()))
    assert rows[0]["cifar10, ipc 10"] == "71.6 ± 1.1* (55.2)"


@pytest.mark.parametrize("again", [(0.31, 0.32, 0.33), (0.21, 0.22, 0.23)], ids=["other sets", "the same set"])
def test_sets_that_no_seed_changes_are_one(again):
    """The image nearest to a class's mean is the same for every seed: its networks are tested, not its copies."""
    plans, options, first = [load_plan("league")], Options(SCALES["cpu"]), (0.21, 0.22, 0.23)
    graph = build_graph(plans, options)
    place, cell = next((at, one) for at, one in enumerate(graph.cells) if one.row == "K-means without ZCA")
    assert len(cell.scores) == 3
    scores = {
        key: [score(key, cell.network, values), score(key, "AlexNetW32", (0.1, 0.1, 0.1))]
        for key, values in zip(cell.scores, (first, again, again), strict=True)
    }
    cells = campaign_document(plans, options, graph, Measured(scores, {}, {}))["cells"]
    found, chance = cells[place], cells[place + 3]
    assert (chance["network"], chance["networks"]) == ("AlexNetW32", found["networks"])
    if again == first:
        assert (found["networks"], found["values"], found["sets"]) == (3, first, ())
    else:
        assert (found["networks"], found["values"]) == (9, ())
        assert found["sets"] == pytest.approx((0.22, 0.32, 0.32))


def test_the_best_on_test_stands_beside_and_is_not_the_measured_value():
    plans, options = [load_plan("tgdd_table4")], Options(SCALES["paper"], paper=True)
    graph = build_graph(plans, options)
    cell = graph.cells[0]
    kept = {f"{cell.score}, step {step}": (step, value) for step, value in ((20, 0.7), (40, 0.8))}
    steps = {name: step for name, (step, _) in kept.items()}
    common = {"selection": "paper", "of": cell.score, "asked": False}
    scores = [score(name, cell.network, (value, value + 0.1), **common) for name, (_, value) in kept.items()]
    honest = score(cell.score, cell.network, (0.5, 0.6))
    measured = Measured({cell.score: best_of_steps([*scores, honest], steps)}, {}, {})
    found = campaign_document(plans, options, graph, measured)["cells"][0]
    assert (found["mean"], found["best"]) == (pytest.approx(0.55), pytest.approx(0.85))


def test_times_add_up_and_another_campaign_or_other_data_are_refused(tmp_path):
    """Also of an installed package, which has no commit."""
    plans, options, path = (
        [load_plan("tgdd_table4")],
        Options(SCALES["paper"], {"cifar10": "/a"}),
        tmp_path / "campaign.json",
    )
    assert spent_before(path, plans, options, "here") == Spent()
    document = campaign_document(
        plans, options, build_graph(plans, options), Measured({}, {}, {}), Spent(2.0, 0.5, None)
    )
    write_document(path, document)
    assert spent_before(path, plans, options, "here") == Spent(2.0, 0.5, None)
    with pytest.raises(ValueError, match="here holds a campaign with --data cifar10=/a; give the same"):
        spent_before(path, plans, options._replace(paths={"cifar10": "/b"}), "here")
    with pytest.raises(ValueError, match="here holds another campaign"):
        spent_before(path, plans, options._replace(seed=1), "here")


def test_plans_of_a_users_own_have_their_names_and_say_what_is_missing(tmp_path):
    rows = {"Random": "random", "MTT": "mtt"}
    trees = [{"name": name, "title": "mine", "rows": rows, "columns": [{"dataset": str(tmp_path)}]} for name in "ab"]
    plans, options = [make_plan(tree, "here") for tree in trees], Options(SCALES["paper"])
    document = campaign_document(plans, options, build_graph(plans, options), Measured({}, {}, {}))
    assert [title.partition(";")[0] for title in campaign_rows(document)] == ["a: mine", "b: mine"]
    column = f"{tmp_path}, ipc 1"
    own = f"raydd ships no settings of mtt for {tmp_path}; preset: '' in the row takes the method's own"
    assert missing_lines(document) == [f"Random, {column}: not done yet", f"MTT, {column}: {own}"]
    write_document(tmp_path / "campaign.json", document)
    assert [section.title for section in campaign_sections(tmp_path)] == ["a", "b"]
    assert campaign_headline(tmp_path).startswith("a, b at scale paper")
    of_paper, _ = table("paper")
    assert missing_lines(of_paper) == []


def test_seconds_of_a_step_are_a_value_of_their_own():
    _, cell = table("paper", "ast_table6")
    assert (cell["mean"], cell["published"]) == (2.0, 0.5)
    assert cell["difference"] == pytest.approx(1.5)


def test_what_has_no_value_says_why():
    document, _ = table("paper", "ast_table4")
    reasons = {cell["row"]: cell["missing"] for cell in document["cells"]}
    assert reasons["CAFE"] == "no settings of cafe for cifar10 with ipc 50 are published"
    assert reasons["MTT"] == "not done yet"
    graph = build_graph([load_plan("ast_table4")], Options(SCALES["paper"]))
    failed = next(cell for cell in graph.cells if cell.row == "MTT")
    document, _ = table("paper", "ast_table4", failed={failed.score: "out of memory"})
    assert {cell["missing"] for cell in document["cells"] if cell["row"] == "MTT"} == {"out of memory"}
