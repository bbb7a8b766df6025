"""The figures of a search, as files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raydd.figures.search import draw_history, draw_importance, draw_pareto
from raydd.figures.style import save_figure
from raydd.figures.sweep import draw_parallel, draw_values
from raydd.io.files import AnyPath
from raydd.tuning.importance import importance
from raydd.tuning.results import Record, front, rows_of, scales
from raydd.tuning.space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figures(records: Sequence[Record], space: Space, folder: AnyPath) -> dict[str, Path]:
    """Draw what a search has found so far.

    Args:
        records: Of all trials, in any state.
        space: What was searched.
        folder: Where ``<figure>.png`` go; it is made if need be.

    Returns:
        Paths by figure: history, values and parallel; importance where it can be told; pareto of two metrics. Nothing
        where no trial has an accuracy.
    """
    rows = rows_of(records)
    if all(row["accuracy"] is None for row in rows):
        return {}
    axes, shares = scales(space), importance(records, space)
    draw: dict[str, Callable[[], Figure]] = {"history": lambda: draw_history(rows, space.name)}
    if any(record.values for record in records):
        draw["values"] = lambda: draw_values(rows, axes, space.name)
        draw["parallel"] = lambda: draw_parallel(rows, axes, shares, space.name)
    if shares:
        judged = sum(row["accuracy"] is not None and row["state"] in ("complete", "pruned") for row in rows)
        draw["importance"] = lambda: draw_importance(shares, judged, space.name)
    costs = [metric for metric in space.directions if metric != "accuracy"]
    if costs:
        best = [record.number for record in front(records, space.directions)]
        draw["pareto"] = lambda: draw_pareto(rows, best, costs[0], space.name)
    return {name: save_figure(make(), Path(folder) / f"{name}.png") for name, make in draw.items()}
