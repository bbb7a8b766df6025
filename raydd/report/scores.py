"""Scores on a page: sets by networks, the baselines beside them, and which differences are more than chance.

A document without ``comparisons``, as searches and the quick start leave it, is tested here as `raydd evaluate` does.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from raydd.data.score_record import Comparison, Score
from raydd.evaluation.significance import compare_scores
from raydd.figures.bars import draw_scores
from raydd.figures.curves import band, draw_curves
from raydd.figures.score_tables import chance, percent, spread
from raydd.figures.style import PAGE_WIDTH
from raydd.io.document import read_document
from raydd.report.documents import Scores, document_file, file_of
from raydd.report.html import Cell, Column, Row, Section, chart, macros, plural, table

LEVEL = 0.05
SELECTIONS = {
    "honest": "chosen on validation images held out of the training images, or the last step: the test images chose "
    "nothing",
    "paper": "chosen on the test images, the best of several, as papers report: higher than what new images would give",
    "unknown": "its file does not say how it was chosen; other projects' best files were chosen on test, as a rule",
}
TESTS = {"welch": "Welch's t test", "bootstrap": "a bootstrap"}
ROBUST = {"hlr": "less is better", "ior": "more is better", "lrs": "more is better", "ars": "more is better"}


def accuracy(mean: float, std: float | None, networks: int, note: str = "") -> Cell:
    """Return the cell of a mean, a standard deviation and a number of networks, sorted by the mean.

    >>> accuracy(0.7129, 0.004, 5).text, accuracy(0.7129, None, 1).text
    ('71.3 ± 0.4 (5)', '71.3 (1)')
    """
    return Cell(f"{spread(mean, std if networks > 1 else None)} ({networks})", mean, note)


def score_cell(row: Score) -> Cell:
    """Return the cell of a row of scores."""
    return accuracy(row.mean, row.std, row.networks, f"{_fresh(row)}, {row.selection}")


def number_cell(text: str, value: float | None, note: str = "") -> Cell:
    """Return the cell of a number; where there is none, it sorts last."""
    return Cell(text, math.nan if value is None else value, note)


def is_scored(path: Path) -> bool:
    """Return whether it is a file of scores, or a folder with ``scores.json``."""
    return file_of(path, "scores.json") is not None


def read_scores(path: Path) -> Scores:
    """Read the scores of a file, or of a folder's ``scores.json``."""
    file = document_file(path, "scores.json")
    return read_document(file, Scores, "`raydd evaluate SYNSET --out FILE` writes scores anew")


def score_headline(path: Path) -> str:
    """Return the first set's accuracy in a line."""
    rows = [score for score in read_scores(path).scores if score.in_table]
    best = next((score for score in rows if score.requested), rows[0])
    text = f"{best.name}: {spread(best.mean, best.spread)} %"
    return f"{text} on the test images of {best.dataset} ({best.network}, {_fresh(best)}, {best.selection})"


def score_sections(path: Path) -> list[Section]:
    """Return the table of scores, and the differences that are more than chance."""
    scores = read_scores(path)
    rows = [score for score in scores.scores if score.in_table]
    others = list(dict.fromkeys(_baseline(row.kind) for row in rows if row.kind != "distilled"))
    commits = dict.fromkeys(commit for row in rows for commit in row.commits or (scores.commit or "not recorded",))
    pairs = [("protocol", _join(row.protocol for row in rows)), *selection_words(row.selection for row in rows)]
    pairs.append(("made by commit", ", ".join(commits)))
    counts, datasets = sorted({row.networks for row in rows}), _join(row.dataset for row in rows)
    body = macros("scores").section(datasets, counts, others, score_matrix(rows), pairs, score_charts(rows))
    body += _steps(scores) + _robust(scores) + _settings(scores)
    return [Section("scores", "Test accuracy", body), differences(scores)]


def score_matrix(rows: Sequence[Score]) -> Markup:
    """Return sets by networks: a cell is mean ± standard deviation, with the number of networks."""
    networks = list(dict.fromkeys(row.network for row in rows))
    lines: list[tuple[Score, dict[str, Cell]]] = []
    for row in rows:
        same = (one for one in lines if (one[0].name, one[0].selection) == (row.name, row.selection))
        line = next((one for one in same if row.network not in one[1]), None)
        if line is None:
            lines.append(line := (row, {}))
        line[1][row.network] = score_cell(row)
    columns = [Column("set"), *(Column(network, numeric=True) for network in networks)]
    columns += [Column("trained on"), Column("images a class", numeric=True)]
    columns.append(Column("selection", note="how the set was chosen among the steps of its distillation"))
    cells: list[Row] = [
        [
            row.name,
            *(own.get(network, number_cell("-", None)) for network in networks),
            row.source,
            number_cell("all" if row.ipc is None else f"{row.ipc:g}", row.ipc),
            Cell(row.selection, note=SELECTIONS.get(row.selection, "")),
        ]
        for row, own in lines
    ]
    over = "mean ± std" if any(row.networks > 1 for row in rows) else "one network a cell"
    caption = f"Test accuracy in %, {over} (number of networks): {_join(row.dataset for row in rows)}"
    return table(columns, cells, f"{caption}, protocol {_join(row.protocol for row in rows)}")


def score_charts(rows: Sequence[Score]) -> list[Markup]:
    """Return a chart of bars a network."""
    networks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        networks.setdefault(row.network, []).append(row.model_dump() | {"std": row.spread})
    titles = ((f"Test accuracy, {network}", own) for network, own in networks.items())
    return [chart(draw_scores(own, title, width=PAGE_WIDTH)) for title, own in titles]


def differences(scores: Scores) -> Section:
    """Return which rows differ by more than chance: the file's own tests, or else Welch's."""
    tests = scores.comparisons
    if tests is None:
        rivals = [score for score in scores.scores if score.in_table and score.selection != "paper"]
        requested = {score.name for score in scores.scores if score.requested} or None
        tests = tuple(compare_scores(rivals, "welch", requested))
    if not tests:
        return Section("differences", "Differences", macros("scores").nothing())
    tested = _join(TESTS.get(test.method, test.method) for test in tests)
    body = macros("scores").differences(tested, LEVEL, difference_table(tests))
    return Section("differences", "Differences", body)


def difference_table(tests: Sequence[Comparison]) -> Markup:
    """Return a table of tests, a row a test."""
    columns = [Column("first"), Column("second"), Column("first less second", numeric=True), Column("verdict")]
    columns += [Column("95 % interval"), Column("p (Holm)", numeric=True, note="adjusted for all tests of a network")]
    columns += [Column("network"), Column("networks", note="of the first and of the second")]
    rows: list[Row] = [
        [
            test.first,
            Cell(f"{test.second} (best)", note="the best baseline") if test.best_baseline else test.second,
            number_cell(percent(test.difference, signed=True), test.difference),
            verdict(test.p_adjusted),
            _interval(test),
            number_cell(chance(test.p_adjusted), test.p_adjusted, _unadjusted(test)),
            test.network,
            f"{test.counts[0]} and {test.counts[1]}",
        ]
        for test in tests
    ]
    return table(columns, rows, "First less second, test accuracy in points of %")


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


def _baseline(kind: str) -> str:
    if kind == "whole":
        return "training on all real images"
    return "as many mosaics of real images" if kind.endswith("-mosaic") else "as many real images"


def _steps(scores: Scores) -> str:
    """Return the stored steps of each run on the test images."""
    curves = []
    for run in scores.steps:
        steps, means, stds = ([getattr(one, key) for one in run.steps] for key in ("step", "mean", "std"))
        curves.append(band(f"{run.of}, {run.network}", steps, means, stds, 100))
    if not curves:
        return ""
    figure = draw_curves(curves, "outer step", "test accuracy (%)", "Kept steps on the test images", width=PAGE_WIDTH)
    return macros("scores").kept(chart(figure))


def _robust(scores: Scores) -> str:
    if not scores.robust:
        return ""
    columns = [Column("set"), Column("network"), Column("score"), Column("mean ± std in %", numeric=True)]
    columns += [Column("weight", numeric=True), Column("from")]
    rows: list[Row] = [
        [
            one.of,
            one.network,
            Cell(one.score, note=ROBUST.get(one.score, "")),
            Cell(f"{spread(one.mean, one.std)} ({len(one.values) or 'of means'})", one.mean, one.how),
            Cell(f"{one.weight:g}", one.weight),
            one.how,
        ]
        for one in scores.robust
    ]
    trainings = score_matrix([score for score in scores.scores if score.part])
    return macros("scores").robust(table(columns, rows, "Robust scores in %, mean ± std"), trainings)


def _settings(scores: Scores) -> Markup:
    """Return every field of the protocol, and every setting, as the file has them."""
    parts, html = {"Fields of the protocol": scores.protocol, "Settings of the evaluation": scores.settings}, Markup()
    for title, fields in parts.items():
        texts = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in fields.items()]
        html += macros("elements").details(title, macros("elements").definitions(texts)) if texts else ""
    return html


def _fresh(row: Score) -> str:
    return f"{plural(row.networks, 'network')}, protocol {row.protocol}"


def _unadjusted(test: Comparison) -> str:
    return "" if test.p is None else f"unadjusted {chance(test.p)}"


def _interval(test: Comparison) -> str:
    if test.low is None or test.high is None:
        return "-"
    return f"{percent(test.low, signed=True)} to {percent(test.high, signed=True)}"


def _join(words: Iterable[str]) -> str:
    """Join words, each once."""
    return ", ".join(dict.fromkeys(words))
