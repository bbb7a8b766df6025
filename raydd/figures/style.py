"""The style of every figure, and how a figure is written to a file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raydd.io.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which people with any kind of colour blindness tell apart; yellow is left out."""
MARKERS = "os^DvXP"
WIDTH = 7.5  # inches, of a file
PAGE_WIDTH = 5.6  # inches, of a chart on a page, whose letters must stay legible on a phone
DOTS_PER_INCH = 150
PALEST = 0.88  # of viridis, which ends in a yellow that is lost on white
SHADES = 48  # levels of a colour map; of 50 and more matplotlib makes a bitmap


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches; it does not touch pyplot's state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def label(axes: "Axes", x: str, y: str, title: str = "") -> None:
    """Name the axes, with units, and what is measured; lay a faint grid below the data."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def whole_ticks(axes: "Axes") -> None:
    """Set ticks at whole numbers only, for epochs and steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def legend_below(figure: "Figure", handles: Sequence[Any] = (), labels: Sequence[str] = ()) -> None:
    """Draw one legend below all axes, where it hides nothing; by default of what has a label, once for all axes."""
    entries = [*zip(handles, labels, strict=True)]
    for axes in figure.axes if not entries else ():
        known = {text for _, text in entries}
        entries += [pair for pair in zip(*axes.get_legend_handles_labels(), strict=True) if pair[1] not in known]
    look: dict[str, Any] = {"frameon": False, "fontsize": "small", "handlelength": 3}
    look["ncols"] = min(3 if len(entries) == 3 else 2, len(entries))
    figure.legend([handle for handle, _ in entries], [text for _, text in entries], loc="outside lower center", **look)


def series_style(index: int) -> dict[str, Any]:
    """Return the colour and the marker of a series; each tells it apart, for print without colour."""
    again = index // len(COLOURS)  # the eighth has the first one's colour and another marker
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[(index + again) % len(MARKERS)]}


def shades() -> "Colormap":
    """Return viridis from its palest end that is visible on white to its darkest."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(PALEST, 0, SHADES)))


def add_tooltips(points: "PathCollection", texts: Sequence[str]) -> None:
    """Give the points of a scatter tooltips, which `raydd.figures.svg` shows; PNG files have none."""
    points.set_urls([*texts, ""])  # of a single URL matplotlib's SVG keeps nothing


def numbers_of(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return plain values as an array; what is not a finite number becomes NaN and leaves a gap."""
    numbers = np.array(values, np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; equal figures give equal bytes."""
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return write_atomic(path, data.getvalue())
