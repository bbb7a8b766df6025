"""Tables of a campaign: a row of the paper a line, its columns beside each other, published and measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from raydd.figures.cells import Cell, Row, rows_table

LEVEL = 0.05
MARK = "*"
"""Marks a difference from the published value that Welch's test finds at `LEVEL`."""


def campaign_tables(document: Mapping[str, Any]) -> list[Table]:
    """Return a table a plan, for a terminal."""
    return [rows_table(title, rows) for title, rows in campaign_rows(document).items()]


def campaign_rows(document: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the rows of the table of each plan, by its title.

    A cell is ``measured (published)``, or ``measured`` in a plan that knows no published value: accuracies in percent,
    with standard deviation; ``*`` marks a difference that Welch's test finds at 5 %. Where a method has several sets, a
    cell also has its place in the column, which ties share, and rows stand from the best to the worst.
    """
    tables: dict[str, list[Row]] = {}
    for plan in document["plans"]:
        cells = [cell for cell in document["cells"] if cell["plan"] == plan["name"]]
        several = len({cell["network"] for cell in cells if cell["mean"] is not None}) > 1
        rows: dict[str, dict[str, Cell | str]] = {}
        for cell in cells:
            column = f"{cell['column']}, {cell['network']}" if several else cell["column"]
            row = rows.setdefault(cell["row"], {"row": cell["row"]})
            row[column] = cell_words(cell, plan["measure"])
        values = "measured (published)" if any(cell["published"] is not None for cell in cells) else "measured"
        what = f"{_unit(plan['measure'])}, {values}, scale {document['scale']}"
        if any(cell.get("place") for cell in cells):
            what += "; # is the place, which rows share that cannot be told apart"
            first = {cell["row"]: cell for cell in reversed(cells)}
            rows = dict(sorted(rows.items(), key=lambda one: _rank(first[one[0]])))
        title = f"{source_of(plan)}: {plan['title']}; {what}"
        tables[title] = _squared([*rows.values()])
    return tables


def source_of(plan: Mapping[str, Any], between: str = " ") -> str:
    """Return a plan's paper and table, or its name."""
    return between.join(plan[key] for key in ("paper", "table") if plan[key]) or str(plan["name"])


def missing_lines(document: Mapping[str, Any]) -> list[str]:
    """Return why cells are missing, of plans without published values: a paper's may have rows for other tables."""
    of_papers = {cell["plan"] for cell in document["cells"] if cell["published"] is not None}
    cells = (cell for cell in document["cells"] if cell["missing"] and cell["plan"] not in of_papers)
    return [*dict.fromkeys(f"{cell['row']}, {cell['column']}: {cell['missing']}" for cell in cells)]


def cell_words(cell: Mapping[str, Any], measure: str = "accuracy") -> str:
    """Return a cell's values as text."""
    published = "" if cell["published"] is None else f" ({cell['published']:g})"
    if cell["mean"] is None:
        return f"-{published}"
    unit, digits = (100, 1) if measure == "accuracy" else (1, 2)
    spread = "" if cell["std"] is None else f" ± {unit * cell['std']:.{digits}f}"
    mark = MARK if cell["p"] is not None and cell["p"] < LEVEL else ""
    best = "" if cell["best"] is None else f", best on test {unit * cell['best']:.{digits}f}"
    place = f" #{cell['place']}" if cell.get("place") else ""
    return f"{unit * cell['mean']:.{digits}f}{spread}{mark}{best}{published}{place}"


def _rank(cell: Mapping[str, Any]) -> tuple[float, float]:
    """Return what rows are sorted by: the place, and the accuracy; rows without come last."""
    return cell.get("place") or float("inf"), -(cell["mean"] or 0.0)


def _unit(measure: str) -> str:
    return {"accuracy": "test accuracy in %", "seconds": "seconds of an outer step"}.get(measure, measure)


def _squared(rows: Sequence[Row]) -> list[Row]:
    """Return rows that all have all columns."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in columns} for row in rows]
