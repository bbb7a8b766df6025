"""The figures of a search, as files."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydd.figures.search import SETTINGS, Row, draw_history, draw_importance, draw_pareto, ranked, shorten, split
from raydd.figures.style import DOTS_PER_INCH, save_figure, shades
from raydd.figures.sweep import draw_values
from raydd.io.files import AnyPath
from raydd.tuning.importance import importance, study_in_memory
from raydd.tuning.results import Record, front, rows_of, scales, text_of
from raydd.tuning.space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.distributions import BaseDistribution

MOST_AXES = 12  # of parallel coordinates; more are not told apart


def save_figures(records: Sequence[Record], space: Space, folder: AnyPath) -> dict[str, Path]:
    """Draw the figures that apply to the trials so far, and return their paths by name."""
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


def draw_parallel(rows: Sequence[Row], scales: Mapping[str, str], shares: Mapping[str, float], name: str) -> "Figure":
    """Draw parallel coordinates by Optuna: an axis a setting, a line a scored trial, the better the darker.

    The winner's line is thick and lies on top. Of many settings the `MOST_AXES` with the largest shares are drawn.
    """
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.collections import LineCollection
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    best = max(ranked(rows), key=lambda row: float(row["accuracy"]), default=None)
    scored = sorted(split(rows)[0], key=lambda row: (row is best, row["accuracy"]))
    keys = [key for key in scales if any(row.get(SETTINGS + key) is not None for row in scored)]
    chosen = sorted(keys, key=lambda key: -shares.get(key, 0.0))[:MOST_AXES]
    with matplotlib.rc_context(), warnings.catch_warnings():  # Optuna sets a style for all of pyplot
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Attempting to set identical", UserWarning)  # trials of one value
        axes = plot_parallel_coordinate(_study_of(scored, keys, scales), params=chosen, target_name="accuracy (%)")
    figure: Any = axes.figure
    pyplot.close(figure)
    (lines,) = (each for each in axes.collections if isinstance(each, LineCollection))
    lines.set_cmap(shades())
    lines.set_linewidth([3.0 if row is best else 1.0 for row in scored])
    names = ["accuracy (%)", *(shorten(key, 26) for key in sorted(chosen))]  # Optuna cuts their ends off
    axes.set_xticks(range(len(names)), names, rotation=330, ha="left", fontsize="small")
    title = f"{name}: accuracy by setting, a line a trial, the best thick"
    title += f"; {len(keys) - len(chosen)} settings left out" if len(keys) > len(chosen) else ""
    title += f"; {len(rows) - len(scored)} without accuracy not drawn" if len(rows) > len(scored) else ""
    axes.set_title("")
    axes.set_title(title, loc="left", fontsize="medium", wrap=True)
    figure.set(size_inches=(max(7.5, 1.3 + 1.15 * len(chosen)), 5.0), dpi=DOTS_PER_INCH, layout_engine="tight")
    return figure  # type: ignore[no-any-return]


def _study_of(rows: Sequence[Row], keys: Sequence[str], scales: Mapping[str, str]) -> "Study":
    """Return a study in memory of rows that have an accuracy, in their order."""
    columns = {key: [row.get(SETTINGS + key) for row in rows] for key in keys}
    for key in keys:
        if scales[key] == "choice":
            columns[key] = [None if value is None else text_of(value) for value in columns[key]]
    kinds = {key: _distribution(columns[key], scales[key]) for key in keys}
    return study_in_memory(columns, kinds, [100 * row["accuracy"] for row in rows])


def _distribution(column: Sequence[Any], scale: str) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    known = [value for value in column if value is not None]
    if scale == "choice":
        return CategoricalDistribution(sorted(set(known)))
    return FloatDistribution(min(known), max(known), log=scale == "log" and min(known) > 0)
