"""The figures of a search, as files."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydd.figures.search import SETTINGS, Row, draw_history, draw_importance, draw_pareto, ranked, shorten, split
from raydd.figures.style import DOTS_PER_INCH, save_figure, shades
from raydd.figures.sweep import draw_values
from raydd.io.files import AnyPath
from raydd.tuning.importance import importance
from raydd.tuning.results import Record, front, rows_of, scales, text_of
from raydd.tuning.space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.distributions import BaseDistribution

MOST_AXES = 12  # of parallel coordinates; more are not told apart


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


def draw_parallel(rows: Sequence[Row], scales: Mapping[str, str], shares: Mapping[str, float], name: str) -> "Figure":
    """Draw parallel coordinates by Optuna: an axis a setting, a line a scored trial, the better the darker.

    The winner's line is thick and lies on top. Of many settings the `MOST_AXES` with the largest shares are drawn.

    Args:
        rows: Of all trials, see `rows_of`; at least one has an accuracy and a setting.
        scales: See `raydd.tuning.results.scales`.
        shares: The importance of each setting.
        name: Of the space.
    """
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.collections import LineCollection
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    best = max(ranked(rows), key=lambda row: float(row["accuracy"]), default=None)
    scored = sorted(split(rows)[0], key=lambda row: (row is best, row["accuracy"]))
    keys = [key for key in scales if any(row.get(SETTINGS + key) is not None for row in scored)]
    kept = sorted(keys, key=lambda key: -shares.get(key, 0.0))[:MOST_AXES]
    with matplotlib.rc_context(), warnings.catch_warnings():  # Optuna sets a style for all of pyplot
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Attempting to set identical", UserWarning)  # trials of one value
        axes = plot_parallel_coordinate(_study_of(scored, keys, scales), params=kept, target_name="accuracy (%)")
    figure: Any = axes.figure
    pyplot.close(figure)
    (lines,) = (each for each in axes.collections if isinstance(each, LineCollection))
    lines.set_cmap(shades())
    lines.set_linewidth([3.0 if row is best else 1.0 for row in scored])
    names = ["accuracy (%)", *(shorten(key, 26) for key in sorted(kept))]  # Optuna cuts their ends off
    axes.set_xticks(range(len(names)), names, rotation=330, ha="left", fontsize="small")
    title = f"{name}: accuracy by setting, a line a trial, the best thick"
    title += f"; {len(keys) - len(kept)} settings left out" if len(keys) > len(kept) else ""
    title += f"; {len(rows) - len(scored)} without accuracy not drawn" if len(rows) > len(scored) else ""
    axes.set_title("")
    axes.set_title(title, loc="left", fontsize="medium", wrap=True)
    figure.set(size_inches=(max(7.5, 1.3 + 1.15 * len(kept)), 5.0), dpi=DOTS_PER_INCH, layout_engine="tight")
    return figure  # type: ignore[no-any-return]


def _study_of(rows: Sequence[Row], keys: Sequence[str], scales: Mapping[str, str]) -> "Study":
    """Return a study in memory of rows that have an accuracy, in their order."""
    import optuna
    from optuna.trial import create_trial

    columns = {key: [_place(row.get(SETTINGS + key), scales[key]) for row in rows] for key in keys}
    kinds = {key: _distribution(columns[key], scales[key]) for key in keys}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(level)
    for index, row in enumerate(rows):
        params = {key: column[index] for key, column in columns.items() if column[index] is not None}
        own = {key: kinds[key] for key in params}
        study.add_trial(create_trial(params=params, distributions=own, value=100 * row["accuracy"]))
    return study


def _place(value: Any, scale: str) -> Any:
    return text_of(value) if scale == "choice" and value is not None else value


def _distribution(column: Sequence[Any], scale: str) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    known = [value for value in column if value is not None]
    if scale == "choice":
        return CategoricalDistribution(sorted(set(known)))
    return FloatDistribution(min(known), max(known), log=scale == "log" and min(known) > 0)
