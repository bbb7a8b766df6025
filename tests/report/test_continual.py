"""Class-incremental learning and ablations on a page: what the commands wrote, read back."""

import json
import statistics
import zlib
from itertools import pairwise

import pytest

from raydd.api.ablation import ABLATIONS, ablate
from raydd.api.continual import evaluate_continual
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Outcome
from raydd.figures import continual as figures
from raydd.report.continual import (
    ABLATION,
    CONTINUAL,
    ablation_headline,
    ablation_sections,
    continual_headline,
    continual_sections,
)

HERE = Where(device="cpu")
TOY = {
    "method": "tgdd",
    "steps": 1,
    "threads": 1,
    "statistic": {"batch_real": 4, "region": 2},
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
}


def formula(matrix, job):
    """Fewer classes are easier; the whole data is best; a name gives a little."""
    entry = matrix.rows[job.row]
    base = {"distilled": 0.7, "random": 0.5, "herding": 0.55}.get(entry.kind, 0.9)
    value = base - 0.01 * len(entry.classes or ()) + zlib.crc32(f"{entry.name} {job.seed}".encode()) / 2**32 / 20
    return Outcome(value, 2.0)


def learned(small_synset, pretend, out, **settings):
    pretend(formula)
    config = EvaluateConfig(**{"networks": ("MLP",), "seeds": 3, "baselines": ("random",)} | settings)
    evaluate_continual([SyntheticSet.load(small_synset)], config, out, steps=(2, 5), where=HERE)
    return out


@pytest.fixture(scope="module")
def continual(small_synset, pretend, tmp_path_factory):
    """Three memories in two and in five steps, three runs; read only."""
    return learned(small_synset, pretend, tmp_path_factory.mktemp("continual") / "out")


@pytest.fixture(scope="module")
def ablation(small_buffer, pretend, tmp_path_factory):
    """TGDD part by part, two networks a row; read only."""
    pretend(formula)
    out = tmp_path_factory.mktemp("ablation") / "out"
    scoring = EvaluateConfig(seeds=3, protocol="dm", baselines=("random",))
    ablate(build(DistillConfig, TOY), out, scoring, buffer=small_buffer, where=HERE)
    return out


def percent(value):
    return f"{100 * value:.1f}"


def test_every_accuracy_after_every_step_is_in_the_tables(continual, read):
    page, found = read(continual_sections(continual)), json.loads((continual / "continual.json").read_text())
    assert [table.caption[:7] for table in page.tables] == ["2 steps", "5 steps"]
    for table, steps in zip(page.tables, (2, 5), strict=True):
        runs = [run for run in found["runs"] if run["steps"] == steps]
        assert table.columns == ["memory", *(f"{seen} classes" for seen in runs[0]["classes"]), "mean over steps"]
        assert len(runs) == len(table.rows) == 3
        for row, run in zip(table.rows, runs, strict=True):
            cells = [f"{percent(m)} ± {percent(s)} (3)" for m, s in zip(run["mean"], run["std"], strict=True)]
            each = [statistics.fmean(step[seed] for step in run["values"]) for seed in range(3)]
            average = f"{percent(statistics.fmean(run['mean']))} ± {percent(statistics.stdev(each))} (3)"
            assert row == [run["name"], *cells, average]
    assert "over 3 runs" in page.text
    orders = {f"seed {order['seed']}": ", ".join(map(str, order["classes"])) for order in found["orders"]}
    assert orders.items() <= page.definitions.items()


def test_the_curves_are_the_runs(continual, read):
    page, found = read(continual_sections(continual)), json.loads((continual / "continual.json").read_text())
    (chart,) = page.charts
    assert [text for text in chart.texts if text.endswith(" steps")] == ["2 steps", "5 steps"]
    panels = dict(zip((2, 5), chart.said.split("5 steps."), strict=True))
    for run in found["runs"]:
        assert run["name"] in chart.texts
        ends = [f"{100 * run['mean'][place]:.4g} at" for place in (0, -1)]
        assert (
            f"{run['name']}: {ends[0]} classes seen {run['classes'][0]}, {ends[1]} {run['classes'][-1]}"
            in panels[run["steps"]]
        )
    first = found["runs"][0]
    last = f"{percent(first['mean'][-1])} ± {percent(first['std'][-1])} % on all 10 classes of digits after 2 steps"
    assert continual_headline(continual) == f"{first['name']}: {last} (3 runs, protocol mtt)"


def test_bands_are_a_deviation_to_both_sides(continual, monkeypatch):
    drawn, draw_curve = [], figures.draw_curve
    monkeypatch.setattr(
        figures, "draw_curve", lambda axes, curve, index: drawn.append(curve) or draw_curve(axes, curve, index)
    )
    continual_sections(continual)
    found = json.loads((continual / "continual.json").read_text())
    runs = sorted(found["runs"], key=lambda run: run["steps"])
    assert [curve.name for curve in drawn] == [run["name"] for run in runs]
    for curve, run in zip(drawn, runs, strict=True):
        for ends, sign in ((curve.low, -1), (curve.high, 1)):
            assert ends == pytest.approx([100 * (m + sign * s) for m, s in zip(run["mean"], run["std"], strict=True)])


def test_a_single_run_has_no_deviation_and_no_band(small_synset, pretend, read, tmp_path):
    sections = continual_sections(learned(small_synset, pretend, tmp_path, seeds=1))
    page, found = read(sections), json.loads((tmp_path / "continual.json").read_text())
    assert page.tables[0].rows[0][1] == f"{percent(found['runs'][0]['mean'][0])} (1)"
    assert "±" not in page.text
    assert 'class="band' not in sections[0].body


def test_the_rows_of_an_ablation_have_their_gains(ablation, read):
    page, found = read(ablation_sections(ablation)), json.loads((ablation / "ablation.json").read_text())
    table, scores = page.tables[0], found["scores"]
    assert [row[0] for row in table.rows] == [score["name"] for score in scores]
    assert [row[0] for row in table.rows[:4]] == list(ABLATIONS["tgdd"])
    for row, score in zip(table.rows, scores, strict=True):
        assert row[3] == f"{percent(score['mean'])} ± {percent(score['std'])} (3)"
    gains = [f"{100 * (b['mean'] - a['mean']):+.1f}" for a, b in pairwise(scores[:4])]
    assert [row[4] for row in table.rows] == ["", *gains, "", "", ""]
    assert page.charts[0].title == "Test accuracy, MLP"
    bars = [f"{percent(score['mean'])} ± {percent(score['std'])}" for score in scores]
    assert len([text for text in page.charts[0].texts if text in bars]) == len(scores) == 7
    assert [score["kind"] for score in scores[4:]] == ["random", "random-mosaic", "whole"]
    assert len(page.tables[1].rows) == 6 + 4 + 1  # pairs, each against the better baseline, the best against both
    assert page.summaries == ["Which differences are more than chance (Welch's test, Holm's adjustment)"]
    ends = f"DM {percent(scores[0]['mean'])} ± {percent(scores[0]['std'])} %"
    assert ablation_headline(ablation).startswith(f"tgdd part by part on digits: {ends} to + stage-wise constraint ")


def test_documents_are_told_apart(continual, ablation, tmp_path):
    assert CONTINUAL.find(continual)
    assert CONTINUAL.find(continual / "continual.json")
    assert ABLATION.find(ablation)
    assert ABLATION.find(continual) is None
    assert CONTINUAL.find(ablation) is None
    renamed = tmp_path / "numbers.json"
    renamed.write_bytes((continual / "continual.json").read_bytes())
    assert (CONTINUAL.find(renamed), ABLATION.find(renamed)) == (renamed, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["runs"][0]["mean"].pop(), "runs.0: mtt, 1 a class has not as many means"),
        (lambda found: found["runs"][0].update(classes=[1, 10]), "all of it: runs of one number of steps"),
        (lambda found: found.pop("runs"), "runs: Field required"),
    ],
)
def test_a_damaged_curve_is_refused_in_a_line(change, said, continual, refuse, tmp_path):
    found = json.loads((continual / "continual.json").read_text())
    change(found)
    (tmp_path / "continual.json").write_text(json.dumps(found))
    line = refuse(continual_sections, tmp_path)
    assert line.startswith(f"{tmp_path / 'continual.json'} is damaged ({said}")
    assert line.endswith("; `raydd continual` with the same --out writes it anew")


def test_a_damaged_ablation_is_refused_in_a_line(ablation, refuse, tmp_path):
    found = json.loads((ablation / "ablation.json").read_text())
    del found["scores"][2]["values"]
    (tmp_path / "ablation.json").write_text(json.dumps(found))
    assert "is damaged (scores.2.values: Field required); `raydd ablate`" in refuse(ablation_sections, tmp_path)
