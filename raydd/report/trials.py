"""The trials of a search on a page: their table, the best so far, accuracy against each setting, and the front.

Rows are those of ``results.parquet``, see `raydd.tuning.results.rows_of`.

Shapes: none; accuracies are fractions in rows, per cent on the page.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydd.figures.score_tables import percent
from raydd.figures.search import LOOKS, WORDS, Row, ranked, shorten, split
from raydd.figures.trial_tables import settings_text
from raydd.report.charts import Curve, Point, lines, scatter
from raydd.report.html import Cell, Column, details, paragraph, picture_file, table
from raydd.report.scores import number_cell
from raydd.tuning.domains import Domain
from raydd.tuning.results import SETTINGS, Record, front
from raydd.tuning.space import Space

LETTERS = 60  # of an axis's name
NOT_METRICS = {"trial", "state", "step", "error"}
PICTURES = {
    "importance": "Share of each setting in the variance of the accuracy (fANOVA); of little worth below twenty trials",
    "parallel": "Parallel coordinates: a line a trial, the better the darker",
}


def records_of(rows: Sequence[Row]) -> list[Record]:
    """Rows as what a winner and a front are chosen among; settings play no part."""
    return [
        Record(row["trial"], row["state"], {}, _metrics(row), row.get("step", 0), (), row.get("error", ""))
        for row in rows
    ]


def _metrics(row: Row) -> dict[str, float]:
    keys = [key for key in row if key not in NOT_METRICS and not key.startswith(SETTINGS)]
    return {key: row[key] for key in keys if row[key] is not None}


def trial_body(space: Space, rows: Sequence[Row]) -> str:
    """The best so far, the accuracy of each trial, and the table of all."""
    told = "A row a trial: accuracy on validation images in per cent, the best of its scores; seconds are of outer "
    told += "steps alone. The state's tooltip says why a trial failed."
    unscored = len(split(rows)[1])
    told += f" {unscored} without an accuracy are in the table alone." if unscored else ""
    charts = _so_far(rows) + _scatter([(float(row["trial"]), row) for row in rows], "trial", "Accuracy by trial")
    return paragraph(told) + charts + _table(space, rows)


def _so_far(rows: Sequence[Row]) -> str:
    """The best accuracy so far as a stair: among complete trials, or else among all that did not fail."""
    places, heights = list[float](), list[float | None]()
    for row in ranked(rows):
        height = 100 * row["accuracy"]
        if heights:
            places.append(float(row["trial"]))
            heights.append(heights[-1])
            height = max(height, heights[-1] or 0.0)
        places.append(float(row["trial"]))
        heights.append(height)
    if heights:
        places.append(float(max(row["trial"] for row in rows)))
        heights.append(heights[-1])
    curve = Curve("best so far", places, heights)
    return lines([curve], x="trial", y="validation accuracy (%)", title="Best so far")


def _table(space: Space, rows: Sequence[Row]) -> str:
    keys = [key for key in rows[0] if key.startswith(SETTINGS)]
    columns = [Column("trial", numeric=True), Column("state"), Column("accuracy in %", numeric=True)]
    columns += [Column("step", numeric=True), Column("seconds", numeric=True)]
    columns += [Column(key.removeprefix(SETTINGS), numeric=_numeric(rows, key)) for key in keys]
    cells = []
    for row in rows:
        seconds = row.get("seconds")
        shown = "-" if seconds is None else f"{seconds:.1f}"
        cells.append(
            [
                Cell(str(row["trial"]), row["trial"]),
                Cell(_word(row), note=row.get("error") or ""),
                number_cell(percent(row["accuracy"]), row["accuracy"]),
                number_cell(str(row.get("step", "-")), row.get("step")),
                number_cell(shown, seconds),
                *(_value(row[key]) for key in keys),
            ]
        )
    return table(columns, cells, f"Trials of {space.name}, accuracy on validation images")


def _numeric(rows: Sequence[Row], key: str) -> bool:
    known = [row[key] for row in rows if row[key] is not None]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def _value(value: Any) -> Cell:
    if value is None:
        return Cell("-", math.nan, "not searched in this trial")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value))
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Cell(shown, value, "" if float(shown) == value else str(value))


def settings_body(path: Path, panels: Sequence[str]) -> str:
    """Accuracy against every setting, and the pictures of importances and parallel coordinates where they were drawn.

    Args:
        path: The search's folder.
        panels: Of `setting_chart`.
    """
    told = "Accuracy on validation images against each setting that was searched, a mark a trial. Where all others "
    told += "change too, a cloud without a slope says little against a setting."
    pictures = "".join(
        picture_file(file, said, said)
        for name, said in PICTURES.items()
        if (file := path / "figures" / f"{name}.png").is_file()
    )
    return (
        paragraph(told)
        + "".join(panels)
        + (details("Importances and parallel coordinates", pictures) if pictures else "")
    )


def setting_chart(rows: Sequence[Row], key: str, domain: Domain) -> str:
    """The scatter of one setting; empty where no trial that has it has an accuracy."""
    having = [row for row in rows if row.get(SETTINGS + key) is not None]
    if not split(having)[0]:
        return ""
    values = [row[SETTINGS + key] for row in having]
    if not _numeric(having, SETTINGS + key):
        names = sorted({str(value) for value in values})
        legend = ", ".join(f"{place} = {name}" for place, name in enumerate(names, start=1))
        pairs = [(1.0 + names.index(str(value)), row) for value, row in zip(values, having, strict=True)]
        return _scatter(pairs, shorten(legend, LETTERS), key)
    log = domain.log and all(value > 0 for value in values)
    pairs = [(math.log10(value) if log else float(value), row) for value, row in zip(values, having, strict=True)]
    return _scatter(pairs, shorten(f"log10 of {key}" if log else key, LETTERS), key)


def _scatter(pairs: Sequence[tuple[float, Row]], x: str, title: str) -> str:
    """Accuracy of trials at their places, a shape a state."""
    order = {state: place for place, state in enumerate(LOOKS)}
    scored = [(place, row) for place, row in pairs if row["accuracy"] is not None]
    points = [
        Point(place, 100 * row["accuracy"], _said(row), _word(row))
        for place, row in sorted(scored, key=lambda pair: order.get(pair[1]["state"], len(order)))
    ]
    return scatter(points, x=x, y="validation accuracy (%)", title=title)


def front_body(space: Space, rows: Sequence[Row], cost: str) -> str:
    """Accuracy against a cost; the trials that none other beats in both are a group of their own."""
    best = {record.number for record in front(records_of(rows), space.directions)}
    both = [row for row in split(rows)[0] if row.get(cost) is not None]
    points = [
        Point(row[cost], 100 * row["accuracy"], _said(row), "front" if row["trial"] in best else _word(row))
        for row in sorted(both, key=lambda row: row["trial"] not in best)
    ]
    unit = "seconds of outer steps" if cost == "seconds" else cost
    told = f"Accuracy on validation images in per cent against {unit}. Complete trials that no other one beats in one"
    told += f" of both without losing in the other are the front: {', '.join(map(str, sorted(best))) or 'none yet'}."
    chart = scatter(points, x=unit, y="validation accuracy (%)", title=f"{space.name}: accuracy against {cost}")
    return paragraph(told) + chart


def _word(row: Row) -> str:
    return str(WORDS.get(row["state"], row["state"]))


def _said(row: Row) -> str:
    known = {key.removeprefix(SETTINGS): row[key] for key in row if key.startswith(SETTINGS) and row[key] is not None}
    return f"trial {row['trial']}, {percent(row['accuracy'])} %: {settings_text(known)}"
