"""Cells of tables: numbers as text, with what they are sorted by. Pages and terminals show the same rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.table import Table

from raydd.io.terminal_table import text_table


class Cell(NamedTuple):
    """A table's cell."""

    text: str  # plain text
    value: float | str | None = None  # its sort key; None sorts by the text, NaN sorts last
    note: str = ""  # what it means; a page's tooltip, which screen readers read too


Row = Mapping[str, Cell | str]  # by the title of the column


def number_cell(text: str, value: float | None, note: str = "") -> Cell:
    """Return the cell of a number; where there is none, it sorts last."""
    return Cell(text, math.nan if value is None else value, note)


def accuracy(mean: float, std: float | None, networks: int, note: str = "") -> Cell:
    """Return the cell of a mean, a standard deviation and a number of networks, sorted by the mean.

    >>> accuracy(0.7129, 0.004, 5).text, accuracy(0.7129, None, 1).text
    ('71.3 ± 0.4 (5)', '71.3 (1)')
    """
    return Cell(f"{spread(mean, std if networks > 1 else None)} ({networks})", mean, note)


def rows_table(title: str, rows: Sequence[Row], *, upright: bool = False) -> Table:
    """Return a table for a terminal of rows with equal keys; upright, with a column a row."""
    texts = [(column, *(_text(row[column]) for row in rows)) for column in rows[0]]
    head, *lines = texts if upright else [*zip(*texts, strict=True)]
    return text_table(title, head, lines)


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def percent(value: float | None) -> str:
    """Return a fraction in per cent, to one digit.

    >>> percent(0.7129), percent(None)
    ('71.3', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """Return a difference of fractions in points of per cent, with its sign.

    >>> points(0.05), points(None)
    ('+5.0', '-')
    """
    return "-" if value is None else f"{100 * value:+.1f}"


def interval(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    """Return an interval as text, a dash where there is none."""
    return "-" if low is None or high is None else f"{text(low)} to {text(high)}"


def spread(mean: float | None, std: float | None) -> str:
    """Return a mean and its standard deviation in per cent; the mean alone where there is none.

    >>> spread(0.7129, 0.004), spread(0.7129, None), spread(None, None)
    ('71.3 ± 0.4', '71.3', '-')
    """
    return percent(mean) if mean is None or std is None else f"{percent(mean)} ± {percent(std)}"


def decimal(value: float | None) -> str:
    """Return a coefficient to two digits, a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def chance(p: float | None) -> str:
    """Return a p value as text, a small one as a bound.

    >>> chance(0.034), chance(0.00004), chance(None)
    ('0.034', '< 0.001', '-')
    """
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
