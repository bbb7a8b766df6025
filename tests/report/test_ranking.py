"""Rankings of architectures on a page: what `raydd nas` wrote, read back."""

import json
import statistics

import pytest
import torch

from raydd.api.nas import rank_architectures
from raydd.config.nas import NasConfig
from raydd.config.schema import DataConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Outcome
from raydd.numerics.rng import generator
from raydd.report import ranking as rankings
from raydd.report.ranking import RANKING, nas_headline, nas_sections
from raydd.selection.class_sampler import Request
from raydd.selection.starting_images import INITIAL

EIGHT = NasConfig(sample=8, epochs=9, real_epochs=2, top=(2, 3, 20), seeds=2, asha=True, first_rung=3)


def formula(matrix, job):
    """The i-th architecture: better by real data the later it comes, nearly so by the set; worse by random images."""
    place = matrix.networks.index(job.network)
    kind = matrix.rows[job.row].kind
    steps = {"whole": place, "distilled": place ^ 1, "random": 7 - place}[kind]
    value = 0.2 + 0.08 * steps + 0.01 * job.seed
    if kind == "distilled" and steps < 2:
        return Outcome(value, 1.0 + place, ((3, value),), stopped=True)
    return Outcome(value, 1.0 + place, ((3, value), (9, value)))


@pytest.fixture(scope="module")
def synset(cache):
    """Ten real digits."""
    work = open_workspace(DataConfig(), None, torch.device("cpu"))
    images, labels = INITIAL["real"](Request(work.dataset, work.transform, 1, generator(0, "test")))
    recipe = {"data": DataConfig().model_dump(mode="json"), "method": "random"}
    given = (work.transform, "digits", work.dataset.classes, recipe, {"chosen": "last step"})
    return SyntheticSet(images, labels, torch.tensor(0.01), *given)


@pytest.fixture(scope="module")
def folder(synset, pretend, tmp_path_factory):
    """A ranking of eight architectures by a set, by random images, and by real data; read only."""
    pretend(formula)
    out = tmp_path_factory.mktemp("nas") / "out"
    rank_architectures([synset], EIGHT, out, names=["DM & co"])
    return out


@pytest.fixture
def found(folder):
    return json.loads((folder / "nas.json").read_text())


def percent(value):
    return f"{100 * value:.1f}"


def two(value):
    return "-" if value is None else f"{value:.2f}"


def test_every_architecture_stands_in_the_table_with_accuracy_rank_and_seconds(folder, found, read):
    table = read(nas_sections(folder)).tables[-1]
    first, second = found["proxies"]
    assert [row[0] for row in table.rows] == first["ranking"]
    assert len(table.columns) == 10
    for row in table.rows:
        name = row[0]
        for place, (scores, values, ranking, seconds) in enumerate(
            [
                (first["scores"], first["values"], first["ranking"], first["seconds_of"]),
                (second["scores"], second["values"], second["ranking"], second["seconds_of"]),
                (
                    found["real"],
                    found["real_values"],
                    sorted(found["real"], key=found["real"].get, reverse=True),
                    found["real_seconds_of"],
                ),
            ]
        ):
            accuracy, rank, time = row[1 + 3 * place : 4 + 3 * place]
            expected = f"{percent(scores[name])} ± {percent(statistics.stdev(values[name]))} (2)"
            early = place == 0 and name in first["stopped"]
            assert accuracy == expected + (", stopped" if early else "")
            assert (rank, time) == (str(ranking.index(name) + 1), f"{seconds[name]:.1f}")
    assert len(first["stopped"]) == 2
    assert "stopped after 3 epochs" in table.notes


def test_agreement_is_the_documents(folder, found, read):
    table = read(nas_sections(folder)).tables[0]
    assert len(table.rows) == 2
    for row, proxy in zip(table.rows, found["proxies"], strict=True):
        agreed = proxy["agreement"]
        interval = f"{two(agreed['spearman_low'])} to {two(agreed['spearman_high'])}"
        assert row[0] == proxy["name"]
        assert row[1:3] == [two(agreed["spearman"]), interval]
        assert row[4] == two(agreed["kendall"])
        for place, top in enumerate(agreed["tops"]):
            overlap = "-" if top["overlap"] is None else f"{round(top['overlap'] * top['k'])} of {top['k']}"
            regret = "-" if top["regret"] is None else percent(top["regret"])
            assert row[5 + 3 * place : 8 + 3 * place] == [two(top["spearman"]), overlap, regret]
        assert row[-1] == f"{proxy['seconds_mean']:.2f}"
    assert table.rows[0][11:14] == ["-", "-", "-"]  # of 8 there is no top 20
    assert float(table.rows[0][1]) > 0.8 > float(table.rows[1][1]) == -1


def test_the_scatters_have_a_point_an_architecture_and_say_which_was_stopped(folder, found, read):
    (chart,) = read(nas_sections(folder)).charts
    expected = set()
    for proxy in found["proxies"]:
        assert f"{proxy['name']}. Spearman"[:-10] in chart.said
        assert any(f"Spearman {two(proxy['agreement']['spearman'])}, Kendall" in text for text in chart.texts)
        expected |= {
            f"{name}: {percent(score)} % by {proxy['name']}, {percent(found['real'][name])} % by real data"
            for name, score in proxy["scores"].items()
        }
    assert set(chart.points) == expected
    legend = {"the best 2 by the proxy set", "an architecture", "stopped early, its last accuracy"}
    assert legend <= set(chart.texts)


def test_the_proxy_is_across_and_real_data_up(folder, found, monkeypatch):
    drawn, chart = [], rankings.chart
    monkeypatch.setattr(rankings, "chart", lambda figure: drawn.append(figure) or chart(figure))
    nas_sections(folder)
    for axes, proxy in zip(drawn[0].axes, found["proxies"], strict=True):
        places = {}
        for points in axes.collections:
            for text, place in zip(points.get_urls(), points.get_offsets(), strict=False):
                places |= {text.split(":")[0]: tuple(place)} if text else {}
        assert places == {name: (100 * score, 100 * found["real"][name]) for name, score in proxy["scores"].items()}
        assert axes.get_xlabel().replace("\n", " ") == f"accuracy (%), trained {found['proxy_label']}"
    assert drawn[0].axes[0].get_ylabel().replace("\n", " ") == f"accuracy (%), trained {found['real_label']}"


def test_budget_and_what_a_search_would_take_are_said(folder, found, read):
    page = read(nas_sections(folder))
    best = found["proxies"][0]["winner"]
    words = page.definitions["best by DM & co"]
    assert best["architecture"] in words
    assert f"{percent(best['real_accuracy'])} % by real data, {percent(best['regret'])} below" in words
    assert page.definitions["stopped early"] == "those far from the best after 3 epochs"
    assert page.definitions["ranked on validation images"].startswith("honest: ")
    assert "8 of 720 architectures of convnet720 were trained 9 epochs on the proxy set" in page.text
    assert "2 epochs on all training images (test images)" in page.text
    assert "means of 2 fresh networks" in page.text
    headline = "DM & co ranks 8 architectures of convnet720 on digits: Spearman "
    assert (
        nas_headline(folder)
        == headline + f"{two(found['proxies'][0]['agreement']['spearman'])} with training on real data"
    )


def test_many_architectures_are_drawn_in_part_and_the_page_says_so(folder, found, read, monkeypatch):
    monkeypatch.setattr(rankings, "MOST_ROWS", 3)
    monkeypatch.setattr(rankings, "MOST_POINTS", 4)
    page = read(nas_sections(folder))
    assert [row[0] for row in page.tables[-1].rows] == found["proxies"][0]["ranking"][:3]
    assert "The best 3 of 8 by DM & co; ranking.csv has all." in page.text
    points = [point for point in page.charts[0].points if "% by DM & co" in point]
    assert "About 4 of 8 architectures are drawn." in page.text
    assert 4 <= len(points) < 8
    assert all(any(point.startswith(name) for point in points) for name in found["proxies"][0]["ranking"][:2])


def test_without_real_data_there_is_the_ranking_alone(synset, pretend, read, tmp_path):
    pretend(formula)
    config = NasConfig(sample=8, epochs=9, real="none", baselines=())
    rank_architectures([synset], config, tmp_path, names=["alone"])
    page = read(nas_sections(tmp_path))
    assert (len(page.charts), len(page.tables)) == (0, 1)
    assert page.tables[0].columns == ["architecture", "alone: accuracy", "alone: rank", "alone: seconds"]
    assert "there is no ranking by real data" in page.text
    assert "±" not in page.tables[0].rows[0][1]
    assert nas_headline(tmp_path).startswith("alone ranks 8 architectures of convnet720 on digits: the best is ConvNet")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop("proxies"), "proxies: Field required"),
        (lambda found: found["proxies"][0]["ranking"].pop(), "proxies.0: DM & co: ranking, scores and seconds_of name"),
        (lambda found: found["proxies"][0]["agreement"].update(spearman="high"), "proxies.0.agreement.spearman: "),
        (lambda found: found["real"].update({next(iter(found["real"])): 87.5}), "real.ConvNet"),
    ],
)
def test_a_damaged_document_is_refused_in_a_line(change, said, found, refuse, tmp_path):
    change(found)
    (tmp_path / "nas.json").write_text(json.dumps(found))
    line = refuse(nas_sections, tmp_path)
    assert line.startswith(f"{tmp_path / 'nas.json'} is damaged ({said}")
    assert line.endswith("; `raydd nas` with the same --out writes it anew")


def test_only_a_ranking_is_one(folder, tmp_path):
    assert RANKING.find(folder)
    assert RANKING.find(folder / "nas.json")
    assert RANKING.find(folder / "real.json") is None
    assert RANKING.find(tmp_path) is None
    (tmp_path / "nas.json").write_text("{")
    assert RANKING.find(tmp_path)  # it is named so, and refused when it is read
