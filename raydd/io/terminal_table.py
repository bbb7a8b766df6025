"""Tables on a terminal: nothing is cut, and columns that do not fit go below each other."""

from collections.abc import Sequence
from copy import copy

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

WORDS = frozenset(
    (
        *("set", "network", "first less second", "score", "how", "selection", "proxy"),
        *("memory", "state", "settings", "buffer", "path", "run"),
    )
)
"""Columns of words, aligned left; numbers are aligned right."""
BETWEEN = 3  # characters between two columns


class FittingTable(Table):
    """A table that is drawn as several, one below the other, if it is wider than the terminal.

    Each begins with the first column, which is folded if it would take more than half of the terminal.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the title, as wide as the terminal, and the table below it, in one part or in several."""
        yield self.title or Text()
        for columns in _groups([_width(column) for column in self.columns], options.max_width):
            part = copy(self)
            part.title, part.columns = None, [self.columns[index] for index in columns]
            yield from Table.__rich_console__(part, console, options)


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose cells are plain text: a path may look like markup."""
    heading = Text(title, style="table.title", no_wrap=False, overflow="fold")
    table = FittingTable(title=heading, box=box.MINIMAL, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), justify="left" if column in WORDS else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _width(column: Column) -> int:
    """Return the characters that a column takes if no cell is folded."""
    lines = [line for cell in (column.header, *column.cells) for line in str(cell).splitlines()]
    return max(map(cell_len, lines), default=0)


def _groups(widths: Sequence[int], room: int) -> list[list[int]]:
    """Return the columns of each part: the first, in at most half of the room, and as many others as fit beside it.

    >>> _groups([10, 5, 5, 5], 40), _groups([10, 5, 5, 5], 26), _groups([90, 5, 5], 32)
    ([[0, 1, 2, 3]], [[0, 1, 2], [0, 3]], [[0, 1, 2]])
    """
    first, groups = min(widths[0], room // 2), [[0]]
    for index in range(1, len(widths)):
        width = first + sum(BETWEEN + widths[column] for column in (*groups[-1][1:], index))
        if len(groups[-1]) > 1 and width > room:
            groups.append([0])
        groups[-1].append(index)
    return groups
