"""Curves by epoch, by outer step or by any other count. Every number drawn is in what a function is given."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raydd.figures.style import (
    COLOURS,
    WIDTH,
    label,
    legend_below,
    new_figure,
    numbers_of,
    series_style,
    shades,
    whole_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = Mapping[str, Any]
Values = Sequence[float | None]
MARKS = 12  # of a curve, at most


class Curve(NamedTuple):
    """Values against values."""

    name: str  # its name in the legend; a curve without one is thin and not in the legend
    x: Sequence[float]  # (n,), ascending
    y: Values  # (n,); None leaves a gap
    low: Values | None = None  # (n,), the lower end of a band; None draws no band
    high: Values | None = None  # (n,), the upper end of the band
    dashed: bool = False  # whether the line is dashed
    style: int | None = None  # the index of its colour and marker; None takes its position among the curves


def band(name: str, x: Sequence[float], mean: Values, std: Values, scale: float = 1, **style: Any) -> Curve:
    """Return a curve of means with a band of one standard deviation, both multiplied by a scale."""
    middle, spread = scale * numbers_of(mean), scale * numbers_of(std)
    low, high = (None, None) if np.isnan(spread).all() else (middle - spread, middle + spread)
    return Curve(name, x, *(None if each is None else each.tolist() for each in (middle, low, high)), **style)  # type: ignore[arg-type]


def draw_curves(
    curves: Sequence[Curve], x: str, y: str, title: str, *, log: bool = False, zero: bool = False, width: float = WIDTH
) -> "Figure":
    """Draw curves with their bands and a legend; on a logarithmic scale values of 0 and below leave gaps."""
    named = sum(bool(curve.name) for curve in curves)
    figure = new_figure(width, 0.58 * width + 0.16 * named)
    axes = figure.add_subplot()
    log = log and any((numbers_of(curve.y) > 0).any() for curve in curves)
    axes.set_yscale("log" if log else "linear", **({"nonpositive": "mask"} if log else {}))
    for index, curve in enumerate(curves):
        draw_curve(axes, curve, index if curve.style is None else curve.style)
    if all(np.isnan(numbers_of(curve.y)).all() for curve in curves):
        axes.text(0.5, 0.5, "no value is recorded", transform=axes.transAxes, ha="center")
    label(axes, x, y, fill(title, int(13 * width)))
    whole_ticks(axes)
    if zero:
        axes.set_ylim(bottom=0)
    if named:
        legend_below(figure)
    return figure


def draw_curve(axes: "Axes", curve: Curve, index: int) -> Any:
    """Draw a curve with its band in the style of an index; return its line, for a legend."""
    style, values = series_style(index), numbers_of(curve.y)
    if curve.low is not None and curve.high is not None:
        ends = numbers_of(curve.low), numbers_of(curve.high)
        axes.fill_between(curve.x, *ends, color=style["color"], alpha=0.15, linewidth=0).set_gid("band")
    look = {"markersize": 4, "markevery": -(-len(values) // MARKS), "label": curve.name}
    thin = {"marker": "", "linewidth": 0.7, "alpha": 0.6, "label": None, "gid": "thin"}
    (line,) = axes.plot(
        curve.x, values, **style | (look if curve.name else thin), linestyle="--" if curve.dashed else "-"
    )
    return line


def draw_experts(numbers: Numbers) -> "Figure":
    """Draw the accuracy (solid) and the change of the weights (dashed) by epoch, a colour a buffer.

    Reference: Shen et al., arXiv 2310.10541 (AST), Fig. 9.
    """
    buffers = numbers["buffers"]
    figure = new_figure(WIDTH, 4.6 + 0.16 * len(buffers))
    left = figure.add_subplot()
    right = left.twinx()
    for index, buffer in enumerate(buffers):
        accuracy, change = buffer["accuracy"], buffer["change"]
        draw_curve(left, band(buffer["name"], accuracy["epochs"], accuracy["mean"], accuracy["std"], 100), index)
        line = draw_curve(right, Curve(buffer["name"], change["epochs"], change["mean"], dashed=True), index)
        line.set(markersize=3, alpha=0.8)
    title = "Experts: accuracy, and how far an epoch moves the weights (mean, band: std over experts)"
    label(left, "epoch t", f"{numbers['split']} accuracy (%), solid", title)
    whole_ticks(left)
    left.set_zorder(right.get_zorder() + 1)  # the solid curves lie on the dashed ones
    left.patch.set_visible(False)
    right.set_ylabel(r"$\|\theta_t - \theta_{t-1}\|_2^2$, dashed, log scale")
    right.spines["top"].set_visible(False)
    if any(change for buffer in buffers for change in buffer["change"]["mean"]):
        right.set_yscale("log")
    legend_below(figure)
    return figure


def draw_matching(numbers: Numbers, width: float = WIDTH) -> "Figure":
    """Draw the matching loss over outer steps, a line a start epoch, later ones darker; dashed where it is 1.

    At 1 the student ends as far from the target as it started.

    Reference: Guo et al., arXiv 2310.05773 (DATM), Fig. 10.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    losses = np.array([numbers_of(row) for row in numbers["losses"]])
    colours = ScalarMappable(Normalize(0, max(1, losses.shape[1] - 1)), shades())
    figure = new_figure(width, 0.62 * width)
    axes = figure.add_subplot()
    marker = "o" if len(losses) == 1 else ""
    for curve, colour in zip(losses.T, colours.to_rgba(np.arange(losses.shape[1])), strict=True):
        axes.plot(numbers["steps"], curve, color=colour, linewidth=1.2, marker=marker, markersize=4)
    even = axes.axhline(1, color="black", linestyle="--", linewidth=1)
    bar = figure.colorbar(colours, ax=axes, label="start epoch t")
    bar.ax.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    title = f"{numbers['name']}: matching loss on an expert that takes no part"
    label(axes, "outer step", "matching loss", fill(title, int(13 * width)))
    whole_ticks(axes)
    legend_below(figure, [even], ["the student ends as far from the target as it started"])
    return figure


def draw_labels(numbers: Numbers, width: float = WIDTH) -> "Figure":
    """Draw the spread of the soft labels against the outer step, a curve a run.

    Reference: Guo et al., arXiv 2310.05773 (DATM), Fig. 6.
    """
    curves = [Curve(run["name"], run["steps"], run["label_std"]) for run in numbers["runs"]]
    title = "Spread of the soft labels, mean over images"
    return draw_curves(curves, "outer step", "std over classes of softmax(labels)", title, width=width)


def draw_memory(numbers: Numbers, width: float = WIDTH) -> "Figure":
    """Draw the memory of the process (solid) and the most its tensors took on a device so far (dashed).

    Reference: Cao et al. (DPD), Fig. 2.
    """
    curves = []
    for index, run in enumerate(numbers["runs"]):
        curves.append(Curve(f"{run['name']}: process", run["steps"], run["resident_mb"], style=index))
        if any(value is not None for value in run["device_mb"]):
            name = f"{run['name']}: device, most so far"
            curves.append(Curve(name, run["steps"], run["device_mb"], dashed=True, style=index))
    return draw_curves(curves, "outer step", "memory (MB)", "Memory while distilling", zero=True, width=width)


def draw_convergence(numbers: Numbers, width: float = WIDTH) -> "Figure":
    """Draw the accuracy of each run's sets against the outer step.

    Reference: Shen et al., arXiv 2310.10541 (AST), Fig. 6.
    """
    curves = [Curve(run["name"], run["steps"], [100 * value for value in run["accuracy"]]) for run in numbers["runs"]]
    title = "Accuracy of networks that are trained on the set, by outer step"
    return draw_curves(curves, "outer step", f"{numbers['split']} accuracy (%)", title, width=width)


def draw_similarity(numbers: Numbers) -> "Figure":
    """Draw the correlation of real and synthetic mean features by epoch of the expert.

    Reference: TGDD (Ran et al.), Fig. 4a.
    """
    curves = [band(one["name"], numbers["epochs"], one["mean"], one["std"]) for one in numbers["sets"]]
    title = f"Features of real and synthetic images, {_experts(numbers)}"
    return draw_curves(curves, "epoch t of the expert", "correlation of a class's mean features", title)


def draw_separability(numbers: Numbers) -> "Figure":
    """Draw the experts' accuracy on synthetic images by epoch (solid), and on real ones (dashed).

    Reference: TGDD (Ran et al.), Fig. 4b.
    """
    curves = [band(one["name"], numbers["epochs"], one["mean"], one["std"], 100) for one in numbers["sets"]]
    mean = (100 * numbers_of(numbers["reference"]["mean"])).tolist()
    name = f"real images ({numbers['reference']['split']})"
    curves.append(Curve(name, numbers["epochs"], mean, dashed=True, style=len(COLOURS) - 1))
    title = f"Synthetic images that are recognised, {_experts(numbers)}"
    return draw_curves(curves, "epoch t of the expert", "accuracy (%)", title)


def draw_window(search: Numbers) -> "Figure":
    """Draw the matching loss by start epoch before and after every trial, a panel a trial; the range is shaded."""
    trials = search["trials"]
    figure = new_figure(4.5, 2.2 * len(trials))
    panels = figure.subplots(len(trials), sharex=True, squeeze=False)[:, 0]
    for axes, trial in zip(panels, trials, strict=True):
        axes.axvspan(trial["low"], trial["high"], color="0.9", label="range")
        for index, when in enumerate(("before", "after")):
            losses = numbers_of(trial[when])
            axes.plot(losses, color=COLOURS[index], label=f"{when} the trial")
        axes.axhline(1, color="0.5", linestyle=":", linewidth=1)
        axes.set_ylabel("matching loss")
        axes.set_title(f"T- {trial['low']}, T+ {trial['high']}", fontsize="medium")
    panels[0].legend(fontsize="small")
    panels[-1].set_xlabel("start epoch")
    figure.suptitle(f"window: T- {search['low']}, T {search['current']}, T+ {search['high']}", fontsize="medium")
    return figure


def _experts(numbers: Numbers) -> str:
    return "one expert" if numbers["experts"] == 1 else f"{numbers['experts']} experts (band: std)"
