"""Accuracy against each searched setting, a panel a setting."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raydd.figures.search import Row, mark_trials, percent, ranked, shorten
from raydd.figures.style import COLOURS, label, legend_below, new_figure, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMES = 10  # of the choices below an axis


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
        _panel(axes, having, [row[f"settings.{key}"] for row in having], scales[key], len(keys) == 1)
        axes.tick_params(labelleft=True)
        axes.margins(y=0.09)  # the marks along the bottom lie on no others
        label(axes, shorten(key, 40), "validation accuracy (%)" if index % across == 0 else "")
    figure.suptitle(f"{name}: accuracy against each setting", x=0.01, ha="left", fontsize="medium")
    legend_below(figure)
    return figure


def _panel(axes: "Axes", rows: Sequence[Row], values: Sequence[Any], scale: str, alone: bool) -> None:
    """Draw a setting's panel; a choice stands at the index of its name."""
    from matplotlib.ticker import LogLocator

    names = sorted({_words(value) for value in values}, key=_natural) if scale == "choice" else []
    places = np.array([names.index(_words(value)) for value in values] if names else values, np.float64)
    if scale == "log" and places.min() > 0:
        axes.set_xscale("log")  # first: what is drawn sets the ends by it
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if places.max() < 150 * places.min() else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")  # labels of minor ticks would touch
    elif (places == places.round()).all():
        whole_ticks(axes)
    at = dict(zip((row["trial"] for row in rows), places.tolist(), strict=True))
    mark_trials(axes, rows, at, 26 if len(rows) <= 60 else 14, alpha=0.6, linewidth=0, zorder=2)
    _means(axes, rows, at, names, alone)
    if names:
        marks = range(0, len(names), -(-len(names) // MOST_NAMES))
        texts = [shorten(names[index], 16) for index in marks]
        touching = sum(map(len, texts)) > 28
        turned: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if touching else {}
        axes.set_xticks(marks, texts, fontsize="small", **turned)
        axes.set_xlim(-0.5, len(names) - 0.5)


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


def _means(axes: "Axes", rows: Sequence[Row], at: Mapping[int, float], names: Sequence[str], alone: bool) -> None:
    chosen = ranked(rows)
    places, scores = np.array([at[row["trial"]] for row in chosen]), percent(chosen)
    shared, counts = np.unique(places, return_counts=True)
    if len(shared) == len(places) and not alone:
        return
    groups = [scores[places == place] for place in shared]
    means, deviations = (np.array([measure(group) for group in groups]) for measure in (np.mean, np.std))
    several, aside = counts > 1, 0.16 if names and (counts > 1).any() else 0.0
    ordered = all(_natural(name)[0] == 0 for name in names)  # numbers, which a line may join
    if ordered and (alone or len(places) >= 2 * len(shared)):
        axes.plot(shared + aside, means, color=COLOURS[2], linewidth=1.2, zorder=3)
    if several.any():
        look: dict[str, Any] = {"color": COLOURS[2], "marker": "_", "markersize": 9, "elinewidth": 1.5, "capsize": 3}
        place, words = shared[several] + aside, "mean ± std of a value"
        axes.errorbar(place, means[several], deviations[several], linestyle="", **look, label=words, zorder=4)
