"""Scores on a page: sets by networks, the baselines beside them, and which differences are more than chance.

A document without ``comparisons``, as searches and the quick start leave it, is tested here as `raydd evaluate` does.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from raydd.data.score_record import Comparison, Missing, Score
from raydd.evaluation.significance import compare_scores
from raydd.figures.bars import draw_scores
from raydd.figures.cells import Cell, Row, chance, interval, number_cell, points, spread
from raydd.figures.curves import band, draw_curves
from raydd.figures.score_tables import SELECTIONS, matrix_rows, networks_text, robust_rows
from raydd.figures.style import PAGE_WIDTH
from raydd.report.documents import SCORES, Scores
from raydd.report.html import Section, chart, macros, table
from raydd.report.missing import missing_table

LEVEL = 0.05
TESTS = {"welch": "Welch's t test", "bootstrap": "a bootstrap"}


def score_headline(path: Path) -> str:
    """Return the first set's accuracy in a line."""
    rows = [score for score in SCORES.read(path).scores if score.in_table]
    best = next((score for score in rows if score.requested), rows[0])
    text = f"{best.name}: {spread(best.mean, best.spread)} %"
    return f"{text} on the test images of {best.dataset} ({best.network}, {networks_text(best)}, {best.selection})"


def score_sections(path: Path) -> list[Section]:
    """Return the table of scores, and the differences that are more than chance."""
    scores = SCORES.read(path)
    rows = [score for score in scores.scores if score.in_table]
    others = list(dict.fromkeys(_baseline(row.kind) for row in rows if row.kind != "distilled"))
    commits = dict.fromkeys(commit for row in rows for commit in row.commits or (scores.commit or "not recorded",))
    pairs = [("protocol", _join(row.protocol for row in rows)), *selection_words(row.selection for row in rows)]
    pairs.append(("made by commit", ", ".join(commits)))
    counts, datasets = sorted({row.networks for row in rows}), _join(row.dataset for row in rows)
    matrix = score_matrix(rows, scores.missing)
    body = macros("scores").section(datasets, counts, others, matrix, pairs, score_charts(rows))
    body += missing_table(scores.missing) + _steps(scores) + _robust(scores)
    for title, fields in (("Fields of the protocol", scores.protocol), ("Settings of the evaluation", scores.settings)):
        body += macros("scores").settings(title, {key: setting_text(value) for key, value in fields.items()})
    return [Section("scores", "Test accuracy", body), differences(scores)]


def score_matrix(rows: Sequence[Score], missing: Sequence[Missing] = ()) -> Markup:
    """Return sets by networks: a cell is mean ± standard deviation, with the number of networks."""
    over = "mean ± std" if any(row.networks > 1 for row in rows) else "one network a cell"
    caption = f"Test accuracy in %, {over} (number of networks): {_join(row.dataset for row in rows)}"
    notes = {"selection": "how the set was chosen among the steps of its distillation"}
    cells: list[Row] = [
        {"set": first.name, **own, "trained on": first.source, **ends}
        for first, own, ends in matrix_rows(rows, missing)
    ]
    return table(cells, f"{caption}, protocol {_join(row.protocol for row in rows)}", notes)


def score_charts(rows: Sequence[Score]) -> list[Markup]:
    """Return a chart of bars a network."""
    figures = []
    for network in dict.fromkeys(row.network for row in rows):
        own = [row.model_dump() | {"std": row.spread} for row in rows if row.network == network]
        figures.append(chart(draw_scores(own, f"Test accuracy, {network}", width=PAGE_WIDTH)))
    return figures


def differences(scores: Scores) -> Section:
    """Return which rows differ by more than chance: the file's own tests, or else Welch's."""
    tests = scores.comparisons
    if tests is None:
        rivals = [score for score in scores.scores if score.in_table and score.selection != "paper"]
        tests = welch_tests(rivals)
    tested = _join(TESTS.get(test.method, test.method) for test in tests)
    body = macros("scores").differences(tested, LEVEL, difference_table(tests))
    return Section("differences", "Differences", body)


def welch_tests(rows: Sequence[Score]) -> tuple[Comparison, ...]:
    """Return Welch's tests of the sets that were named to be scored, or of all where none was."""
    return tuple(compare_scores(rows, "welch", {row.name for row in rows if row.requested} or None))


def difference_table(tests: Sequence[Comparison]) -> Markup:
    """Return a table of tests, a row a test; nothing where there is none."""
    rows: list[Row] = [
        {
            "first": test.first,
            "second": Cell(f"{test.second} (best)", note="the best baseline") if test.best_baseline else test.second,
            "first less second": number_cell(points(test.difference), test.difference),
            "verdict": verdict(test.p_adjusted),
            "95 % interval": interval(test.low, test.high, points),
            "p (Holm)": number_cell(
                chance(test.p_adjusted), test.p_adjusted, "" if test.p is None else f"unadjusted {chance(test.p)}"
            ),
            "network": test.network,
            "networks": f"{test.counts[0]} and {test.counts[1]}",
        }
        for test in tests
    ]
    notes = {"p (Holm)": "adjusted for all tests of a network", "networks": "of the first and of the second"}
    return table(rows, "First less second, test accuracy in points of %", notes) if rows else Markup()


def verdict(p: float | None) -> str:
    """Return what a p value says, in words.

    >>> verdict(0.012), verdict(0.3), verdict(None)
    ('significant', 'not significant', 'no test')
    """
    if p is None:
        return "no test"
    return "significant" if p < LEVEL else "not significant"


def selection_words(selections: Iterable[str]) -> list[tuple[str, str]]:
    """Return every selection that occurs, and what it means."""
    return [(f"selection: {each}", SELECTIONS.get(each, each)) for each in dict.fromkeys(selections)]


def setting_text(value: object) -> str:
    """Return a setting as text."""
    return value if isinstance(value, str) else json.dumps(value)


def _baseline(kind: str) -> str:
    if kind == "whole":
        return "training on all real images"
    return "as many mosaics of real images" if kind.endswith("-mosaic") else "as many real images"


def _steps(scores: Scores) -> Markup:
    """Return the stored steps of each run on the test images."""
    curves = []
    for run in scores.steps:
        steps, means, stds = ([getattr(one, key) for one in run.steps] for key in ("step", "mean", "std"))
        curves.append(band(f"{run.of}, {run.network}", steps, means, stds, 100))
    if not curves:
        return Markup()
    figure = draw_curves(curves, "outer step", "test accuracy (%)", "Kept steps on the test images", width=PAGE_WIDTH)
    return macros("scores").kept(chart(figure))


def _robust(scores: Scores) -> Markup:
    if not scores.robust:
        return Markup()
    trainings = score_matrix([score for score in scores.scores if score.part])
    return macros("scores").robust(table(robust_rows(scores.robust), "Robust scores in %, mean ± std"), trainings)


def _join(words: Iterable[str]) -> str:
    """Join words, each once."""
    return ", ".join(dict.fromkeys(words))
