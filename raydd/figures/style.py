"""How every figure looks, and how one is written."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raydd.io.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which people with any kind of colour blindness tell apart; yellow is left out."""
MARKERS = "os^DvXP"
DOTS_PER_INCH = 150


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of a size in inches; it is drawn by Agg and leaves pyplot's state alone."""
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
    """Ticks at whole numbers only, for epochs and steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def legend_below(figure: "Figure", handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend under all axes, where it hides nothing."""
    columns = min(3 if len(labels) == 3 else 2, len(labels))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small", handlelength=3
    )


def look(index: int) -> dict[str, Any]:
    """Colour and marker of the curve with this index; each says the same, for print without colour."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def spaced(count: int, most: int = 12) -> int:
    """Every how many points a curve of ``count`` gets a marker.

    >>> spaced(5), spaced(50)
    (1, 5)
    """
    return -(-count // most)


def numbers_of(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Plain values as an array; None, which was not measured, becomes NaN and leaves a gap."""
    return np.array(values, np.float64)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; equal figures give equal bytes."""
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return write_atomic(path, data.getvalue())
