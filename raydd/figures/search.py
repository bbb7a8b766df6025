"""Figures of a search, drawn from its rows: ``trial``, ``state``, metrics, and ``settings.<key>`` for each setting."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raydd.figures.bars import Series, draw_bars
from raydd.figures.style import COLOURS, WIDTH, add_tooltips, label, legend_below, new_figure, whole_ticks
from raydd.figures.trial_tables import settings_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

SETTINGS = "settings."  # the prefix of a setting's column
STATES: dict[str, dict[str, Any]] = {
    "complete": {"label": "complete", "marker": "o", "color": COLOURS[0]},
    "pruned": {"label": "stopped early", "marker": "v", "color": COLOURS[4]},
    "unfinished": {"label": "unfinished", "marker": "s", "color": COLOURS[3]},
    "failed": {"label": "failed", "marker": "X", "color": COLOURS[6]},
}
"""The label and the mark of a trial's state."""
EDGE = 0.025  # where the marks of trials stand that have no accuracy, as a share of the height


def draw_history(rows: Sequence[Row], name: str) -> "Figure":
    """Draw accuracy by trial number, a mark a state, and the best so far; trials without one along the bottom."""
    figure = new_figure(WIDTH, 4.6)
    axes = figure.add_subplot()
    numbers, size = [row["trial"] for row in rows], 36 if len(rows) <= 60 else 16
    mark_trials(axes, rows, dict(zip(numbers, numbers, strict=True)), size, counted=True, zorder=3)
    chosen = ranked(rows)
    places = [row["trial"] for row in chosen]
    best = np.maximum.accumulate(percent(chosen))
    axes.step(places, best, where="post", color=COLOURS[2], linewidth=1.5, label="best so far", zorder=2)
    words = f": best {best[-1]:.1f} %, by trial {places[int(np.argmax(best))]}" if chosen else ": no accuracy yet"
    label(axes, "trial", "validation accuracy (%)", f"{name}{words}")
    whole_ticks(axes)
    axes.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    if len(rows) <= 8:
        axes.set_xticks(numbers)
    axes.margins(y=0.09)  # the marks along the bottom lie on no others
    legend_below(figure)
    return figure


def draw_importance(shares: Mapping[str, float], trials: int, name: str) -> "Figure":
    """Draw a bar a setting: its share in the variance of the accuracy, the largest on top."""
    ordered = sorted(shares.items(), key=lambda pair: -pair[1])
    values = [100 * share for _, share in ordered]
    series = Series("share", values, [f"{value:.0f} %" for value in values])
    title = f"{name}: what the accuracy of {trials} trials depends on (fANOVA)"
    x = "share of the variance of the validation accuracy (%)"
    return draw_bars([shorten(key, 40) for key, _ in ordered], [series], x, title, room=0.12)


def draw_pareto(rows: Sequence[Row], front: Sequence[int], metric: str, name: str) -> "Figure":
    """Draw accuracy against the column of a cost, a mark a trial; the trials of the front are joined and numbered."""
    figure = new_figure(WIDTH, 4.8)
    axes = figure.add_subplot()
    both = [row for row in split(rows)[0] if row.get(metric) is not None]
    mark_trials(axes, both, {row["trial"]: row[metric] for row in both}, 30, alpha=0.7)
    best = sorted((row for row in both if row["trial"] in front), key=lambda row: (row[metric], row["accuracy"]))
    line: dict[str, Any] = {"color": COLOURS[1], "marker": "D", "markersize": 6, "linewidth": 1.5}
    axes.plot([row[metric] for row in best], percent(best), drawstyle="steps-post", **line, label="front", zorder=4)
    costs = [row[metric] for row in both]
    if costs and min(costs) > 0 and max(costs) > 20 * min(costs):
        axes.set_xscale("log")
    axes.margins(x=0.08, y=0.1)
    unit = "seconds of outer steps" if metric == "seconds" else metric
    label(axes, unit, "validation accuracy (%)", f"{name}: accuracy against {metric}, trials of the front by number")
    _number(axes, best, metric)
    legend_below(figure)
    return figure


def _number(axes: "Axes", rows: Sequence[Row], metric: str) -> None:
    """Write trial numbers beside marks, except where they would lie on one another."""
    axes.autoscale_view()  # else the places are those before the last margins
    last = np.full(2, -np.inf)
    for row in rows:
        at = axes.transData.transform((row[metric], 100 * row["accuracy"]))
        if np.abs(at - last).max() > 0.15 * axes.figure.dpi:
            last = at
            place = (row[metric], 100 * row["accuracy"])
            axes.annotate(str(row["trial"]), place, (5, -11), textcoords="offset points", fontsize="small", zorder=5)


def mark_trials(
    axes: "Axes", rows: Sequence[Row], places: Mapping[int, float], size: float, *, counted: bool = False, **look: Any
) -> None:
    """Mark trials by their accuracy, a mark a state; those without one stand along the bottom.

    Places are across, by trial; the size is the area of a mark in square points. With ``counted`` the legend has the
    number of trials of a state.
    """
    for state, style in STATES.items():
        own = [row for row in rows if row["state"] == state]
        scored, unscored = split(own)
        if own:
            words = {"label": f"{style['label']}: {len(own)}"} if counted else {}
            across = [places[row["trial"]] for row in scored]
            drawn = axes.scatter(across, percent(scored), s=size, **style | look | words)
            add_tooltips(drawn, [describe_trial(row) for row in scored])
        if unscored:
            line = style | {"label": None, "linestyle": "", "markersize": size**0.5, "markeredgewidth": 0, "zorder": 3}
            across, heights = [places[row["trial"]] for row in unscored], [EDGE] * len(unscored)
            axes.plot(across, heights, transform=axes.get_xaxis_transform(), **line)


def describe_trial(row: Row) -> str:
    """Return the tooltip of a trial that has an accuracy."""
    return f"trial {row['trial']}, {100 * row['accuracy']:.1f} %: {settings_text(settings_of(row))}"


def settings_of(row: Row) -> dict[str, Any]:
    """Return the settings that a trial has."""
    known = {key: value for key, value in row.items() if key.startswith(SETTINGS) and value is not None}
    return {key.removeprefix(SETTINGS): value for key, value in known.items()}


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return rows with an accuracy, and rows without."""
    return ([row for row in rows if row["accuracy"] is not None], [row for row in rows if row["accuracy"] is None])


def percent(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Return the accuracies of rows that have one, in per cent."""
    return np.array([100 * row["accuracy"] for row in rows], np.float64)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that may be best: the complete ones, or where there are none all that did not fail."""
    scored = sorted(split(rows)[0], key=lambda row: int(row["trial"]))
    complete = [row for row in scored if row["state"] == "complete"]
    return complete or [row for row in scored if row["state"] != "failed"]


def shorten(text: str, most: int) -> str:
    """Return a text without its middle where it is longer than ``most``.

    >>> shorten("[0.1,0.2,0.3]", 9), shorten("abs", 9)
    ('[0.1…0.3]', 'abs')
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[most // 2 + 1 - most :]}"
