"""Scores on a page: the numbers, deviations, tests and words of a document that an evaluation wrote."""

import copy
import json
import zlib

import pytest

from raydd.cli import run
from raydd.data.score_record import Score
from raydd.evaluation.jobs import Outcome
from raydd.evaluation.significance import compare_scores
from raydd.io.document import dump_document
from raydd.report.documents import SCORES
from raydd.report.scores import difference_table, score_headline, score_sections, verdict


def by_name(matrix, job):
    """What a training comes to, of the row's name, network and seed."""
    entry = matrix.rows[job.row]
    base = {"distilled": 0.9, "whole": 0.95}.get(entry.kind, 0.4)
    return Outcome(base + zlib.crc32(f"{entry.name} {job.network} {job.seed}".encode()) / 2**32 / 50, 1.5)


@pytest.fixture(scope="module")
def kept(small_buffer, tmp_path_factory):
    """A run of two steps, each scored and kept."""
    out = tmp_path_factory.mktemp("kept") / "run"
    words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--out", str(out)]
    settings = ("steps=2", "student_steps=1", "window.high=1", "threads=1", "evaluate_every=1", "keep_scored=true")
    words += [word for each in (*settings, "evaluate_networks=1", "evaluate_epochs=1") for word in ("--set", each)]
    assert run(words) == 0
    return out


@pytest.fixture(scope="module")
def file(kept, small_buffer, pretend, tmp_path_factory):
    """Scores of `raydd evaluate` with all that it can write: two networks, robust scores, the paper's number."""
    pretend(by_name)
    out = tmp_path_factory.mktemp("scored") / "scores.json"
    words = ["evaluate", str(kept), "--nets", "MLP,ConvNetW32", "--seeds", "3", "--baselines", "random", "--paper"]
    assert run([*words, "--scores", "lrs,ars", "--buffer", str(small_buffer), "--out", str(out)]) == 0
    return out


def percent(value):
    return f"{100 * value:.1f}"


def points(value):
    return f"{100 * value:+.1f}"


def test_every_row_has_its_mean_deviation_and_number_of_networks(file, read):
    page, found = read(score_sections(file)), json.loads(file.read_text())
    table = page.tables[0]
    assert table.columns == ["set", "MLP", "ConvNetW32", "trained on", "images a class", "selection"]
    shown = {(row[0], row[5]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    scores = [score for score in found["scores"] if score.get("part") in (None, "distilled_own")]
    assert len(table.rows) == len(scores) / 2 == 4
    for score in scores:
        row = shown[score["name"], score["selection"]]
        assert row[score["network"]] == f"{percent(score['mean'])} ± {percent(score['std'])} (3)"
        assert row["images a class"] == ("all" if score["kind"] == "whole" else "1")
        words = {"distilled": "synthetic images", "whole": "all real images", "random": "real images, random"}
        assert row["trained on"] == words[score["kind"]]
    assert {score["selection"] for score in scores} == {"honest", "paper"}
    assert "on the test images chose" not in page.definitions["selection: honest"]
    assert page.definitions["selection: paper"].startswith("chosen on the test images")
    assert page.definitions["protocol"] == "mtt"
    assert page.definitions["momentum"] == json.dumps(found["protocol"]["momentum"])


def test_bars_reach_a_deviation_to_both_sides(file, read):
    page, found = read(score_sections(file)), json.loads(file.read_text())
    chart = next(chart for chart in page.charts if chart.title == "Test accuracy, MLP")
    score = next(score for score in found["scores"] if score["network"] == "MLP" and score["kind"] == "random")
    assert f"{percent(score['mean'])} ± {percent(score['std'])}" in chart.texts
    assert f"{score['name']}: {100 * score['mean']:.4g};" in chart.said
    assert {"synthetic images", "real images", "all real images"} <= set(chart.texts)
    assert [chart.title for chart in page.charts[:2]] == ["Test accuracy, MLP", "Test accuracy, ConvNetW32"]


def test_differences_are_the_documents(file, read):
    page, found = read(score_sections(file)), json.loads(file.read_text())
    table = next(table for table in page.tables if table.columns[0] == "first")
    assert len(table.rows) == len(found["comparisons"]) == 2
    assert [test["best_baseline"] for test in found["comparisons"]] == [True, True]
    assert "(best), the selection of real images with the highest mean" in page.text
    for row, test in zip(table.rows, found["comparisons"], strict=True):
        second = test["second"] + " (best)" * test["best_baseline"]
        assert row[:3] == [test["first"], second, points(test["difference"])]
        assert row[4] == f"{points(test['low'])} to {points(test['high'])}"
        assert [row[3], *row[5:]] == ["significant", "< 0.001", test["network"], "3 and 3"]
        assert test["p_adjusted"] < 0.001


def test_a_document_without_tests_is_tested_as_an_evaluation_does(file, read, tmp_path):
    found = json.loads(file.read_text())
    (tmp_path / "scores.json").write_text(json.dumps({"scores": found["scores"]}))
    assert SCORES.find(tmp_path)
    with_tests, without = read(score_sections(file)), read(score_sections(tmp_path))
    tables = [next(table for table in page.tables if table.columns[0] == "first") for page in (with_tests, without)]
    assert tables[0].rows == tables[1].rows != []


def test_robust_scores_and_kept_steps_are_shown(file, read):
    page, found = read(score_sections(file)), json.loads(file.read_text())
    table = next(table for table in page.tables if table.caption.startswith("Robust"))
    assert len(found["robust"]) == len(table.rows) == 4
    for row, score in zip(table.rows, found["robust"], strict=True):
        assert row[:3] == [score["of"], score["network"], score["score"]]
        assert row[3] == f"{percent(score['mean'])} ± {percent(score['std'])} (3)"
    trainings = page.tables[page.tables.index(table) + 1]
    parts = [score for score in found["scores"] if "part" in score and score["network"] == "MLP"]
    expected = [[score["name"], f"{percent(score['mean'])} ± {percent(score['std'])} (3)"] for score in parts]
    assert [[row[0], row[1]] for row in trainings.rows] == expected
    assert len(expected) == 5
    chart = next(chart for chart in page.charts if chart.title.startswith("Kept steps"))
    names = [f"{kept['of']}, {kept['network']}" for kept in found["steps"]]
    assert len(names) == 2
    assert set(names) <= set(chart.texts)
    first = found["steps"][0]["steps"][0]["mean"]
    assert f"{100 * first:.4g} at outer step 1" in chart.said


def test_one_network_has_no_deviation_and_no_test(small_synset, pretend, read, tmp_path):
    pretend(by_name)
    out = tmp_path / "one.json"
    words = ["evaluate", str(small_synset), "--seeds", "1", "--baselines", "random", "--set", "real_epochs=0"]
    assert run([*words, "--out", str(out)]) == 0
    assert SCORES.find(out)
    page, found = read(score_sections(out)), json.loads(out.read_text())
    assert [row[1] for row in page.tables[0].rows] == [f"{percent(score['mean'])} (1)" for score in found["scores"]]
    assert "±" not in page.text
    assert page.tables[1].rows[0][3] == "no test"
    assert page.tables[1].rows[0][4] == "-"
    assert "mtt, 1 a class" in score_headline(out)
    assert f"{percent(found['scores'][0]['mean'])} % on the test images of digits (MLP, 1 network" in score_headline(
        out
    )


def test_a_name_is_text_and_no_markup(file, read, tmp_path):
    found = json.loads(file.read_text())
    for score in found["scores"]:
        score["name"] = score["name"].replace("mtt", "<script>alert(1)</script>")
    (tmp_path / "scores.json").write_text(json.dumps({"scores": found["scores"]}))
    sections = score_sections(tmp_path)
    assert "<script>" not in "".join(section.body for section in sections)
    assert any("<script>alert(1)</script>" in row[0] for row in read(sections).tables[0].rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["scores"][0].pop("mean"), "scores.0.mean: Field required"),
        (lambda found: found["scores"][1].update(mean=71.3), "scores.1.mean"),
        (lambda found: found["scores"][0].update(values="no"), "scores.0.values"),
        (lambda found: found.update(scores=[]), "scores: "),
        (lambda found: found.pop("scores"), "scores: Field required"),
        (lambda found: found["comparisons"][0].update(p=2), "comparisons.0.p"),
    ],
)
def test_a_damaged_document_is_refused_in_a_line(change, said, file, refuse, tmp_path):
    found = copy.deepcopy(json.loads(file.read_text()))
    change(found)
    damaged = tmp_path / "scores.json"
    damaged.write_text(json.dumps(found))
    line = refuse(score_sections, damaged)
    assert line.startswith(f"{damaged} is damaged ({said}")
    assert "`raydd evaluate" in line


@pytest.mark.parametrize("content", [b"", b'{"scores": [', b"[]", b"\xff\xfe"])
def test_what_is_no_json_document_is_refused_in_a_line(content, refuse, tmp_path):
    damaged = tmp_path / "scores.json"
    damaged.write_bytes(content)
    assert SCORES.find(damaged)
    assert refuse(score_sections, damaged).startswith(f"{damaged} is damaged (")


def test_what_holds_no_scores_is_none(tmp_path, refuse):
    other = tmp_path / "numbers.json"
    other.write_text('{"analysis": "ablation", "scores": []}')
    assert not SCORES.find(other)
    assert not SCORES.find(tmp_path)
    assert not SCORES.find(tmp_path / "missing.json")
    assert (
        refuse(score_sections, tmp_path)
        == f"{tmp_path} has no scores.json; give a folder that has one, or the file itself"
    )


def test_outside_a_repository_no_commit_is_known(file, read, tmp_path):
    found = json.loads(file.read_text()) | {"commit": None}
    for score in found["scores"]:
        score["commits"] = ["unknown"]
    (tmp_path / "scores.json").write_bytes(dump_document(found))
    assert read(score_sections(tmp_path)).definitions["made by commit"] == "unknown"
    for score in found["scores"]:
        del score["commits"]
    (tmp_path / "scores.json").write_bytes(dump_document(found))
    assert read(score_sections(tmp_path)).definitions["made by commit"] == "not recorded"


def test_verdicts_follow_the_adjusted_p():
    names = {"kind": "distilled", "network": "MLP", "protocol": "mtt", "dataset": "digits", "selection": "honest"}
    records = [
        Score(name=name, values=values, mean=sum(values) / 3, std=None, networks=3, **names)
        for name, values in {"a": (0.5, 0.51, 0.52), "b": (0.8, 0.81, 0.82), "c": (0.5, 0.52, 0.51)}.items()
    ]
    found = [verdict(test.p_adjusted) for test in compare_scores(records)]
    assert found == ["significant", "not significant", "significant"]
    assert difference_table([]) == ""
