"""Trainings that failed, on a page: how many a score lacks, beside it, and the reason of each in a table."""

from collections.abc import Sequence

from markupsafe import Markup

from raydd.data.score_record import Missing
from raydd.figures.cells import Cell, Row
from raydd.report.html import macros, table

MOST_ROWS = 400
Group = tuple[str, str, str]


def missing_table(missing: Sequence[Missing]) -> Markup:
    """Return in words how many trainings failed, and a table of their reasons; nothing where none did."""
    if not missing:
        return Markup()
    groups: dict[Group, list[int]] = {}
    for one in missing:
        groups.setdefault((one.name, one.network, one.reason), []).append(one.seed)
    rows: list[Row] = [
        {
            "missing of": name,
            "network": network,
            "trainings": Cell(str(len(seeds)), len(seeds)),
            "seeds": ", ".join(map(str, seeds)),
            "reason": reason,
        }
        for (name, network, reason), seeds in list(groups.items())[:MOST_ROWS]
    ]
    return macros("missing").section(len(missing), table(rows, "Trainings that failed"), len(groups) - len(rows))
