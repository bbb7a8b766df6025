"""Accuracy against each searched setting, a panel a setting."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raydd.figures.search import STATES, Row, along_edge, describe_trial, percent, ranked, shorten
from raydd.figures.style import COLOURS, add_tooltips, label, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_values(rows: Sequence[Row], scales: Mapping[str, str], name: str) -> "Figure":
    """Draw accuracy against each searched value, a panel a setting, and mean and std where complete trials share it.

    The means are joined where a value of numbers has two trials or more on average, or where one setting is searched.

    Reference:
        The papers' sweeps: Guo et al., arXiv 2310.05773 (DATM), Fig. 9; Zhong et al., arXiv 2406.19827 (MCT), Table 3.
    """
    keys = [key for key in scales if any(row.get(f"settings.{key}") is not None for row in rows)]
    across = min(3, len(keys))
    down = -(-len(keys) // across)
    figure = new_figure(max(5.0, 0.6 + 3.3 * across), 1.0 + 2.7 * down)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for panel in panels[len(keys) :]:
        panel.set_visible(False)
    for index, (axes, key) in enumerate(zip(panels, keys, strict=False)):
        having = [row for row in rows if row.get(f"settings.{key}") is not None]
        _panel(axes, having, _column(having, key, scales[key]), alone=len(keys) == 1)
        axes.tick_params(labelleft=True)
        axes.margins(y=0.09)  # the marks along the bottom lie on no others
        label(axes, shorten(key, 40), "validation accuracy (%)" if index % across == 0 else "")
    figure.suptitle(f"{name}: accuracy against each setting", x=0.01, ha="left", fontsize="medium")
    handles = {text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend_below(figure, list(handles.values()), list(handles))
    return figure


@dataclass(frozen=True, eq=False)
class Column:
    """The axis of a setting, with the position of each row."""

    name: str  # of the setting or metric
    scale: str  # linear, log or choice
    # (rows,), in the setting's own unit, or the index of a choice; NaN where a row does not have it
    places: NDArray[np.float64]
    names: tuple[str, ...] | None  # of the choices, in order; None of a number

    @property
    def whole(self) -> bool:
        """Whether all places are whole numbers."""
        known = self.places[~np.isnan(self.places)]
        return bool((known == known.round()).all())

    @property
    def ordered(self) -> bool:
        """Whether it is of numbers, which a line may join."""
        return self.names is None or all(_natural(name)[0] == 0 for name in self.names)

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest place; of choices those of all names."""
        if self.names is not None:
            return 0.0, float(len(self.names) - 1)
        known = self.places[~np.isnan(self.places)]
        return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _column(rows: Sequence[Row], key: str, scale: str) -> Column:
    values = [row.get(f"settings.{key}") for row in rows]
    known = [value for value in values if value is not None]
    if scale != "choice":
        positive = all(value > 0 for value in known)
        places = np.array([math.nan if value is None else value for value in values], np.float64)
        return Column(key, scale if positive else "linear", places, None)
    names = sorted({_words(value) for value in known}, key=_natural)
    places = np.array([math.nan if value is None else names.index(_words(value)) for value in values], np.float64)
    return Column(key, scale, places, tuple(names))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _natural(text: str) -> tuple[int, float, str]:
    """Return a key that sorts numbers by their size, then words by the alphabet."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def ticks(low: float, high: float, scale: str, whole: bool = False) -> list[float]:
    """Return a few round numbers between two ends; of a logarithm powers of ten, and more where these are few.

    >>> ticks(1, 120, "log"), ticks(0, 10, "linear")
    ([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0])
    """
    from matplotlib.ticker import MaxNLocator

    if low == high:
        return [low]
    if scale == "log":
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        digits = (1, 2, 5) if high < 150 * low else (1, 3) if high < 3e3 * low else (1,)
        candidates = [float(f"{digit}e{power}") for power in powers for digit in digits]
    else:
        locator = MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole)
        candidates = [float(f"{tick:.10g}") for tick in locator.tick_values(low, high)]
    inside = [tick for tick in candidates if low <= tick <= high]
    every = -(-len(inside) // 8)
    return inside[::every] if len(inside) > 1 else [low, high]


def _panel(axes: "Axes", rows: Sequence[Row], column: Column, alone: bool) -> None:
    size = 26 if len(rows) <= 60 else 14
    axes.set_xscale("log" if column.scale == "log" else "linear")  # first: what is drawn sets the ends by it
    for state, style in STATES.items():
        own = np.array([row["state"] == state for row in rows])
        known = np.array([row["accuracy"] is not None for row in rows])
        if own.any():
            scored = [row for row, chosen in zip(rows, own & known, strict=True) if chosen]
            at = column.places[own & known]
            drawn = axes.scatter(at, percent(scored), s=size, **style, alpha=0.6, linewidth=0, zorder=2)
            add_tooltips(drawn, [describe_trial(row) for row in scored])
        along_edge(axes, column.places[own & ~known], size, style)
    _means(axes, rows, column, alone)
    low, high = column.range
    if column.names is None:
        if low == high and column.scale == "log":
            axes.set_xlim(low / 2, high * 2)
        marks = ticks(low, high, column.scale, column.whole)
        axes.set_xticks(marks, [f"{mark:.3g}" if abs(mark) < 1000 else f"{mark:g}" for mark in marks])
        axes.set_xticks([], minor=True)
        return
    every = -(-len(column.names) // 10)
    texts = [shorten(text, 16) for text in column.names[::every]]
    axes.set_xticks(range(0, len(column.names), every), texts, fontsize="small")
    if sum(map(len, texts)) > 28:  # they would touch
        for text in axes.get_xticklabels():
            text.set(rotation=25, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(column.names) - 0.5)


def _means(axes: "Axes", rows: Sequence[Row], column: Column, alone: bool) -> None:
    chosen = {row["trial"] for row in ranked(rows)}
    mask = [row["trial"] in chosen for row in rows]
    places, scores = column.places[mask], percent([row for row in rows if row["trial"] in chosen])
    shared = np.unique(places)
    if len(shared) == len(places) and not alone:
        return
    groups = [scores[places == place] for place in shared]
    means, deviations = (np.array([measure(group) for group in groups]) for measure in (np.mean, np.std))
    several = np.array([len(group) > 1 for group in groups])
    aside = 0.16 if column.names is not None and several.any() else 0.0
    if column.ordered and (alone or len(places) >= 2 * len(shared)):
        axes.plot(shared + aside, means, color=COLOURS[2], linewidth=1.2, zorder=3)
    if several.any():
        look: dict[str, Any] = {"color": COLOURS[2], "marker": "_", "markersize": 9, "elinewidth": 1.5, "capsize": 3}
        place, words = shared[several] + aside, "mean ± std of a value"
        axes.errorbar(place, means[several], deviations[several], linestyle="", **look, label=words, zorder=4)
