"""The trials of a search on a page: their table, and charts by trial, by setting and by cost.

Rows are those of ``results.parquet``, see `raydd.tuning.results.rows_of`.

Shapes: none; accuracies are fractions in rows, per cent on the page.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from raydd.figures.score_tables import percent
from raydd.figures.search import STATES, Row, draw_history, draw_pareto, settings_of, split
from raydd.figures.sweep import draw_values
from raydd.report.html import Cell, Column, Row as HtmlRow, chart, macros, picture_file, table
from raydd.report.scores import number_cell
from raydd.tuning.results import SETTINGS, Record, front, scales
from raydd.tuning.space import Space

NOT_METRICS = {"trial", "state", "step", "error"}
PICTURES = {
    "importance": "Share of each setting in the variance of the accuracy (fANOVA); of little worth below twenty trials",
    "parallel": "Parallel coordinates: a line a trial, the better the darker",
}


def records_of(rows: Sequence[Row]) -> list[Record]:
    """Return rows as the records that a winner and a front are chosen among; settings play no part."""
    return [
        Record(row["trial"], row["state"], {}, _metrics(row), row.get("step", 0), (), row.get("error", ""))
        for row in rows
    ]


def _metrics(row: Row) -> dict[str, float]:
    keys = [key for key in row if key not in NOT_METRICS and not key.startswith(SETTINGS)]
    return {key: row[key] for key in keys if row[key] is not None}


def trial_body(space: Space, rows: Sequence[Row]) -> Markup:
    """Return the accuracy of each trial with the best so far, and the table of all."""
    figure = chart(draw_history(rows, space.name))
    return macros("search").trials(len(split(rows)[1]), figure, _table(space, rows))


def _table(space: Space, rows: Sequence[Row]) -> Markup:
    keys = [key for key in rows[0] if key.startswith(SETTINGS)]
    columns = [Column("trial", numeric=True), Column("state"), Column("accuracy in %", numeric=True)]
    columns += [Column("step", numeric=True), Column("seconds", numeric=True)]
    columns += [Column(key.removeprefix(SETTINGS), numeric=_numeric(rows, key)) for key in keys]
    cells: list[HtmlRow] = []
    for row in rows:
        seconds = row.get("seconds")
        text = "-" if seconds is None else f"{seconds:.1f}"
        cells.append(
            [
                Cell(str(row["trial"]), row["trial"]),
                Cell(STATES[row["state"]]["label"], note=row.get("error") or ""),
                number_cell(percent(row["accuracy"]), row["accuracy"]),
                number_cell(str(row.get("step", "-")), row.get("step")),
                number_cell(text, seconds),
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
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Cell(text, value, "" if float(text) == value else str(value))


def settings_body(path: Path, space: Space, rows: Sequence[Row]) -> Markup:
    """Return accuracy against every setting, and the pictures of importances and parallel coordinates if they exist.

    Args:
        path: The search's folder.
        space: The space that was searched.
        rows: Of all trials; empty is returned where none with a setting has an accuracy.
    """
    if not any(settings_of(row) for row in split(rows)[0]):
        return Markup()
    files = {path / "figures" / f"{name}.png": text for name, text in PICTURES.items()}
    pictures = [picture_file(file, text, text) for file, text in files.items() if file.is_file()]
    return macros("search").settings(chart(draw_values(rows, scales(space), space.name)), pictures)


def front_body(space: Space, rows: Sequence[Row], cost: str) -> Markup:
    """Return accuracy against a cost, with the trials that no other one beats in both."""
    best = sorted(record.number for record in front(records_of(rows), space.directions))
    unit = "seconds of outer steps" if cost == "seconds" else cost
    figure = draw_pareto(rows, best, cost, space.name)
    return macros("search").front(unit, ", ".join(map(str, best)), chart(figure))
