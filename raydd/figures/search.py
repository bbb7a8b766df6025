"""Figures of a search, drawn from its rows: ``trial``, ``state``, metrics, and ``settings.<key>`` for each setting."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raydd.figures.style import COLOURS, label, legend_below, new_figure, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

LOOKS: dict[str, dict[str, Any]] = {
    "complete": {"marker": "o", "color": COLOURS[0]},
    "pruned": {"marker": "v", "color": COLOURS[4]},
    "unfinished": {"marker": "s", "color": COLOURS[3]},
    "failed": {"marker": "X", "color": COLOURS[6]},
}
WORDS = {"complete": "complete", "pruned": "stopped early", "unfinished": "unfinished", "failed": "failed"}
EDGE = 0.025  # where the marks of trials stand that have no accuracy, as a share of the height


def draw_history(rows: Sequence[Row], name: str) -> "Figure":
    """Accuracy by trial number, a mark a state, and the best so far as a line; trials without one along the bottom."""
    figure = new_figure(7.5, 4.6)
    axes = figure.add_subplot()
    size = 36 if len(rows) <= 60 else 16
    for state, style in LOOKS.items():
        some = [row for row in rows if row["state"] == state]
        scored, unscored = split(some)
        if some:
            places = [row["trial"] for row in scored]
            axes.scatter(places, percent(scored), s=size, **style, label=f"{WORDS[state]}: {len(some)}", zorder=3)
        along_edge(axes, [row["trial"] for row in unscored], size, style)
    chosen = ranked(rows)
    places = [row["trial"] for row in chosen]
    best = np.maximum.accumulate(percent(chosen))
    axes.step(places, best, where="post", color=COLOURS[2], linewidth=1.5, label="best so far", zorder=2)
    words = f": best {best[-1]:.1f} %, by trial {places[int(np.argmax(best))]}" if chosen else ": no accuracy yet"
    label(axes, "trial", "validation accuracy (%)", f"{name}{words}")
    whole_ticks(axes)
    numbers = [row["trial"] for row in rows]
    axes.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    if len(rows) <= 8:
        axes.set_xticks(numbers)
    axes.margins(y=0.09)  # the marks along the bottom lie on no others
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def draw_pareto(rows: Sequence[Row], front: Sequence[int], metric: str, name: str) -> "Figure":
    """Accuracy against a cost, a mark a trial; the trials of the front are joined and numbered.

    Args:
        rows: Of all trials; those without both metrics are not drawn.
        front: Numbers of the trials that no other beats.
        metric: The cost's column, for example ``seconds``.
        name: Of the space.
    """
    figure = new_figure(7.5, 4.8)
    axes = figure.add_subplot()
    both = [row for row in split(rows)[0] if row.get(metric) is not None]
    for state, style in LOOKS.items():
        some = [row for row in both if row["state"] == state]
        if some:
            axes.scatter([row[metric] for row in some], percent(some), s=30, alpha=0.7, **style, label=WORDS[state])
    best = sorted((row for row in both if row["trial"] in front), key=lambda row: (row[metric], row["accuracy"]))
    look: dict[str, Any] = {"color": COLOURS[1], "marker": "D", "markersize": 6, "linewidth": 1.5}
    axes.plot([row[metric] for row in best], percent(best), drawstyle="steps-post", **look, label="front", zorder=4)
    costs = [row[metric] for row in both]
    if costs and min(costs) > 0 and max(costs) > 20 * min(costs):
        axes.set_xscale("log")
    axes.margins(x=0.08, y=0.1)
    unit = "seconds of outer steps" if metric == "seconds" else metric
    label(axes, unit, "validation accuracy (%)", f"{name}: accuracy against {metric}, trials of the front by number")
    _number(axes, best, metric)
    legend_below(figure, *axes.get_legend_handles_labels())
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


def along_edge(
    axes: "Axes", places: Sequence[float] | NDArray[np.float64], size: float, style: Mapping[str, Any]
) -> None:
    """Mark trials that have no accuracy along the bottom.

    Args:
        axes: Where.
        places: (trials,) on the axis across.
        size: Area of a mark in square points.
        style: A row of `LOOKS`.
    """
    heights = np.full(len(places), EDGE)
    look = dict(style) | {"linestyle": "", "markersize": size**0.5, "markeredgewidth": 0}
    axes.plot(places, heights, transform=axes.get_xaxis_transform(), **look, zorder=3)


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows with an accuracy, and rows without."""
    return ([row for row in rows if row["accuracy"] is not None], [row for row in rows if row["accuracy"] is None])


def percent(rows: Sequence[Row]) -> NDArray[np.float64]:
    """The accuracies of rows that have one, in percent."""
    return np.array([100 * row["accuracy"] for row in rows], np.float64)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows that the best is chosen among: the complete ones, or where there are none all that did not fail."""
    scored = sorted(split(rows)[0], key=lambda row: int(row["trial"]))
    complete = [row for row in scored if row["state"] == "complete"]
    return complete or [row for row in scored if row["state"] != "failed"]


def shorten(text: str, most: int) -> str:
    """A text without its middle where it is longer than ``most``.

    >>> shorten("[0.1,0.2,0.3]", 9), shorten("abs", 9)
    ('[0.1…0.3]', 'abs')
    """
    if len(text) <= most:
        return text
    left = most // 2
    return f"{text[:left]}…{text[left + 1 - most :]}"
