"""Scores on a page: sets by networks, what stands beside them, and which differences are more than chance.

A document without ``comparisons``, as searches and the quick start leave it, is tested here as `raydd evaluate` does.

Shapes: none; accuracies are fractions in documents, per cent on the page.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from raydd.evaluation.significance import compare_scores
from raydd.figures.score_tables import chance, percent, spread
from raydd.report.charts import Bar, Curve, bars, lines
from raydd.report.documents import Comparison, Score, Scores, file_of, found_in, read_document
from raydd.report.html import Cell, Column, Section, definitions, details, paragraph, table

LEVEL = 0.05
SELECTIONS = {
    "honest": "chosen on validation images held out of the training images, or the last step: the test images chose "
    "nothing",
    "paper": "chosen on the test images, the best of several, as papers report: higher than what new images would give",
    "unknown": "its file does not say how it was chosen; other projects' best files were chosen on test, as a rule",
}
BEST = (
    "Each set is tested against the best baseline of its size (best), the selection of real images with the highest "
    "mean in this table: chosen by the accuracies that are tested, it is a strong rival."
)
TESTS = {"welch": "Welch's t test", "bootstrap": "a bootstrap"}
ROBUST = {"hlr": "less is better", "ior": "more is better", "lrs": "more is better", "ars": "more is better"}


def accuracy(mean: float, std: float | None, networks: int, note: str = "") -> Cell:
    """A table's cell: mean, standard deviation and number of networks, sorted by the mean.

    >>> accuracy(0.7129, 0.004, 5).shown, accuracy(0.7129, None, 1).shown
    ('71.3 ± 0.4 (5)', '71.3 (1)')
    """
    return Cell(f"{spread(mean, std if networks > 1 else None)} ({networks})", mean, note)


def score_cell(row: Score) -> Cell:
    """The cell of a row of scores."""
    return accuracy(row.mean, row.std, row.networks, f"{_fresh(row)}, {row.selection}")


def number_cell(shown: str, value: float | None) -> Cell:
    """A cell of a number; where there is none it is sorted to the end."""
    return Cell(shown, math.nan if value is None else value)


def is_scored(path: Path) -> bool:
    """Whether it is a file of scores, or a folder with ``scores.json``."""
    return file_of(path, "scores.json") is not None


def read_scores(path: Path) -> Scores:
    """The scores of a file, or of a folder's ``scores.json``.

    Raises:
        ValueError: There are none, or they are damaged.
    """
    file = found_in(path, "scores.json")
    return read_document(file, Scores, "`raydd evaluate SYNSET --out FILE` writes scores anew")


def score_headline(path: Path) -> str:
    """The first set's accuracy, in a line."""
    rows = [score for score in read_scores(path).scores if score.in_table]
    best = next((score for score in rows if score.requested), rows[0])
    shown = f"{best.name}: {spread(best.mean, best.spread)} %"
    return f"{shown} on the test images of {best.dataset} ({best.network}, {_fresh(best)}, {best.selection})"


def score_sections(path: Path) -> list[Section]:
    """The table of scores, and the differences that are more than chance.

    Raises:
        ValueError: The scores are damaged.
    """
    found = read_scores(path)
    rows = [score for score in found.scores if score.in_table]
    body = paragraph(_sentence(rows)) + score_matrix(rows) + definitions(_words(rows, found)) + score_bars(rows)
    body += _kept(found) + _robust(found) + _settings(found)
    return [Section("scores", "Test accuracy", body), differences(path, found)]


def score_matrix(rows: Sequence[Score]) -> str:
    """Sets by networks: a cell is mean ± standard deviation, with the number of networks."""
    networks = list(dict.fromkeys(row.network for row in rows))
    lines_: list[tuple[Score, dict[str, Cell]]] = []
    for row in rows:
        same = (one for one in lines_ if (one[0].name, one[0].selection) == (row.name, row.selection))
        place = next((one for one in same if row.network not in one[1]), None)
        if place is None:
            lines_.append(place := (row, {}))
        place[1][row.network] = score_cell(row)
    columns = [Column("set"), *(Column(network, numeric=True) for network in networks)]
    columns += [Column("trained on"), Column("images a class", numeric=True)]
    columns.append(Column("selection", note="how the set was chosen among the steps of its making"))
    cells: list[list[Cell | str]] = [
        [row.name, *(of.get(each, Cell("-", math.nan)) for each in networks), row.source, _size(row), _selection(row)]
        for row, of in lines_
    ]
    over = "mean ± std" if any(row.networks > 1 for row in rows) else "one network a cell"
    caption = f"Test accuracy in %, {over} (number of networks): {_one(row.dataset for row in rows)}"
    return table(columns, cells, f"{caption}, protocol {_one(row.protocol for row in rows)}")


def score_bars(rows: Sequence[Score]) -> str:
    """A chart of the first network, and those of the others on demand."""
    networks = list(dict.fromkeys(row.network for row in rows))
    charts = []
    for network in networks:
        found = [
            Bar(row.name, round(100 * row.mean, 1), _end(row, -1), _end(row, 1), row.source.split(",")[0])
            for row in rows
            if row.network == network
        ]
        charts.append(bars(found, x="test accuracy (%), error bars: std", title=f"Test accuracy, {network}"))
    return charts[0] + (details("The other networks", "".join(charts[1:])) if charts[1:] else "")


def differences(path: Path, found: Scores) -> Section:
    """Which rows differ by more than chance: the file's own tests, or else Welch's.

    Raises:
        ValueError: Its accuracies cannot be compared.
    """
    tests = found.comparisons
    if tests is None:
        rivals = [score for score in found.scores if score.in_table and score.selection != "paper"]
        asked = {score.name for score in found.scores if score.requested} or None
        tests = tuple(compare_scores(rivals, "welch", asked))
    if not tests:
        return Section("differences", "Differences", paragraph("There is nothing to compare: one set stands alone."))
    tested = _one(TESTS.get(test.method, test.method) for test in tests)
    told = f"Differences of mean test accuracy in points of %, tested by {tested}"
    told += " on the accuracies of fresh networks; p is adjusted by Holm within a network, and a difference is called "
    told += f"significant below {LEVEL}. Another distillation of the same method is not in the spread. {BEST}"
    return Section("differences", "Differences", paragraph(told) + difference_table(tests))


def difference_table(tests: Sequence[Comparison]) -> str:
    """A row a test."""
    columns = [Column("first"), Column("second"), Column("first less second", numeric=True), Column("verdict")]
    columns += [Column("95 % interval"), Column("p (Holm)", numeric=True, note="adjusted for all tests of a network")]
    columns += [Column("network"), Column("networks", note="of the first and of the second")]
    rows: list[list[Cell | str]] = [
        [
            test.first,
            Cell(f"{test.second} (best)", note="the best baseline") if test.best_baseline else test.second,
            number_cell(percent(test.difference, signed=True), test.difference),
            verdict(test.p_adjusted),
            _interval(test),
            number_cell(chance(test.p_adjusted), test.p_adjusted)._replace(note=_unadjusted(test)),
            test.network,
            f"{test.counts[0]} and {test.counts[1]}",
        ]
        for test in tests
    ]
    return table(columns, rows, "First less second, test accuracy in points of %")


def verdict(p: float | None) -> str:
    """What a p value comes to, in words.

    >>> verdict(0.012), verdict(0.3), verdict(None)
    ('significant', 'not significant', 'no test')
    """
    if p is None:
        return "no test"
    return "significant" if p < LEVEL else "not significant"


def selection_words(selections: Iterable[str]) -> list[tuple[str, str]]:
    """Every selection that occurs, and what it means."""
    return [(f"selection: {each}", SELECTIONS.get(each, each)) for each in dict.fromkeys(selections)]


def _sentence(rows: Sequence[Score]) -> str:
    counts = sorted({row.networks for row in rows})
    over = f"the mean over {counts[0] if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'} fresh networks"
    shown = over if counts[-1] > 1 else "of one fresh network"
    text = f"Test accuracy on {_one(row.dataset for row in rows)} in per cent, {shown}"
    text += " ± their standard deviation (n - 1), and in brackets how many they are. " if counts[-1] > 1 else ". "
    others = dict.fromkeys(_beside(row.kind) for row in rows if row.kind != "distilled")
    return text + (
        f"Beside the sets stand {' and '.join(others)}, to say what the numbers are worth." if others else ""
    )


def _beside(kind: str) -> str:
    """What stands beside the sets."""
    if kind == "whole":
        return "training on all real images"
    return "as many mosaics of real images" if kind.endswith("-mosaic") else "as many real images"


def _words(rows: Sequence[Score], found: Scores) -> list[tuple[str, str]]:
    """Protocol, selection and commits in words."""
    pairs = [("protocol", _one(row.protocol for row in rows))]
    pairs += selection_words(row.selection for row in rows)
    commits = dict.fromkeys(commit for row in rows for commit in row.commits or (found.commit or "not recorded",))
    return [*pairs, ("made by commit", ", ".join(commits))]


def _kept(found: Scores) -> str:
    """The kept steps of each run on the test images."""
    curves = [
        Curve(
            f"{kept.of}, {kept.network}",
            [float(each.step) for each in kept.steps],
            [100 * each.mean for each in kept.steps],
            [None if each.std is None else 100 * (each.mean - each.std) for each in kept.steps],
            [None if each.std is None else 100 * (each.mean + each.std) for each in kept.steps],
        )
        for kept in found.steps
    ]
    if not curves:
        return ""
    told = "A paper's number is the best of the kept steps on the test images; band: standard deviation over networks."
    return paragraph(told) + lines(curves, x="outer step", y="test accuracy (%)", title="Kept steps on the test images")


def _robust(found: Scores) -> str:
    if not found.robust:
        return ""
    columns = [Column("set"), Column("network"), Column("score"), Column("mean ± std in %", numeric=True)]
    columns += [Column("weight", numeric=True), Column("from")]
    rows: list[list[Cell | str]] = [
        [
            one.of,
            one.network,
            Cell(one.score, note=ROBUST.get(one.score, "")),
            Cell(f"{spread(one.mean, one.std)} ({len(one.values) or 'of means'})", one.mean, one.how),
            Cell(f"{one.weight:g}", one.weight),
            one.how,
        ]
        for one in found.robust
    ]
    told = (
        "Robust scores of DD-Ranking in per cent take the help of soft labels (lrs) or of augmentation (ars) out of an "
    )
    told += "accuracy; of hlr less is better, of ior, lrs and ars more. In brackets: how many seeds."
    trainings = score_matrix([score for score in found.scores if score.part])
    made = details("The trainings that they are made of", trainings)
    return paragraph(told) + table(columns, rows, "Robust scores in %, mean ± std") + made


def _settings(found: Scores) -> str:
    """Every field of the protocol, and every setting, as the file has them."""
    parts = {"Fields of the protocol": found.protocol, "Settings of the evaluation": found.settings}
    return "".join(
        details(title, definitions((key, _plain(value)) for key, value in fields.items()))
        for title, fields in parts.items()
        if fields
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _selection(row: Score) -> Cell:
    return Cell(row.selection, note=SELECTIONS.get(row.selection, ""))


def _size(row: Score) -> Cell:
    return number_cell("all" if row.ipc is None else f"{row.ipc:g}", row.ipc)


def _fresh(row: Score) -> str:
    return f"{row.networks} network{'s' * (row.networks > 1)}, protocol {row.protocol}"


def _unadjusted(test: Comparison) -> str:
    return "" if test.p is None else f"unadjusted {chance(test.p)}"


def _interval(test: Comparison) -> str:
    if test.low is None or test.high is None:
        return "-"
    return f"{percent(test.low, signed=True)} to {percent(test.high, signed=True)}"


def _end(row: Score, sign: int) -> float | None:
    return None if row.spread is None else round(100 * (row.mean + sign * row.spread), 1)


def _one(words: Iterable[str]) -> str:
    """Words, each once."""
    return ", ".join(dict.fromkeys(words))
