"""Curves by epoch and by outer step. Every number drawn is in the document that a function is given."""

from typing import TYPE_CHECKING, Any

import numpy as np

from raydd.figures.style import label, legend_below, look, new_figure, numbers_of, spaced, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALEST = 0.88  # of viridis, which ends in a yellow that is lost on white


def draw_experts(numbers: dict[str, Any]) -> "Figure":
    """Accuracy (solid) and change of the weights (dashed) by epoch, a colour a buffer.

    Reference:
        Shen et al., arXiv 2310.10541 (AST), Fig. 9.
    """
    from matplotlib.lines import Line2D

    buffers = numbers["buffers"]
    figure = new_figure(7.5, 4.6 + 0.16 * len(buffers))
    left = figure.add_subplot()
    right = left.twinx()
    for index, buffer in enumerate(buffers):
        _expert_curves(left, right, buffer, index)
    title = "Experts: accuracy, and how far an epoch moves the weights (mean, band: std over experts)"
    label(left, "epoch t", f"{numbers['split']} accuracy (%), solid", title)
    whole_ticks(left)
    left.set_zorder(right.get_zorder() + 1)  # the solid curves lie on the dashed ones
    left.patch.set_visible(False)
    right.set_ylabel(r"$\|\theta_t - \theta_{t-1}\|_2^2$, dashed, log scale")
    right.spines["top"].set_visible(False)
    if any(change for buffer in buffers for change in buffer["change"]["mean"]):
        right.set_yscale("log")
    handles = [Line2D([], [], **look(index)) for index in range(len(buffers))]
    legend_below(figure, handles, [buffer["name"] for buffer in buffers])
    return figure


def _expert_curves(left: "Axes", right: "Axes", buffer: dict[str, Any], index: int) -> None:
    style, every = look(index), spaced(len(buffer["change"]["mean"]))
    accuracy, change = buffer["accuracy"], buffer["change"]
    mean, std = (100 * numbers_of(accuracy[key]) for key in ("mean", "std"))
    left.plot(accuracy["epochs"], mean, **style, markersize=4, markevery=spaced(len(mean)))
    left.fill_between(accuracy["epochs"], mean - std, mean + std, color=style["color"], alpha=0.15, linewidth=0)
    right.plot(change["epochs"], change["mean"], **style, linestyle="--", markersize=3, markevery=every, alpha=0.8)


def draw_matching(numbers: dict[str, Any]) -> "Figure":
    """The matching loss over outer steps, a line a start epoch, later ones darker; dashed where it is 1.

    At 1 the student ends as far from the target as it started.

    Reference:
        Guo et al., arXiv 2310.05773 (DATM), Fig. 10.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    losses = np.array([numbers_of(row) for row in numbers["losses"]])
    shades = matplotlib.colormaps["viridis"](np.linspace(PALEST, 0, 256))
    colours = ScalarMappable(Normalize(0, max(1, losses.shape[1] - 1)), ListedColormap(shades))
    by_epoch = colours.to_rgba(np.arange(losses.shape[1]))
    figure = new_figure(7.5, 4.6)
    axes = figure.add_subplot()
    marker = "o" if len(losses) == 1 else ""
    for curve, colour in zip(losses.T, by_epoch, strict=True):
        axes.plot(numbers["steps"], curve, color=colour, linewidth=1.2, marker=marker, markersize=4)
    even = axes.axhline(1, color="black", linestyle="--", linewidth=1)
    bar = figure.colorbar(colours, ax=axes, label="start epoch t")
    bar.ax.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    title = f"{numbers['name']}: matching loss on an expert that takes no part"
    label(axes, "outer step", "matching loss", title)
    whole_ticks(axes)
    legend_below(figure, [even], ["the student ends as far from the target as it started"])
    return figure


def draw_labels(numbers: dict[str, Any]) -> "Figure":
    """Spread of the soft labels against the outer step, a curve a run.

    Reference:
        Guo et al., arXiv 2310.05773 (DATM), Fig. 6.
    """
    figure = new_figure(7.5, 4.4 + 0.16 * len(numbers["runs"]))
    axes = figure.add_subplot()
    for index, run in enumerate(numbers["runs"]):
        values = numbers_of(run["label_std"])
        axes.plot(run["steps"], values, **look(index), markersize=4, markevery=spaced(len(values)), label=run["name"])
    label(axes, "outer step", "std over classes of softmax(labels)", "Spread of the soft labels, mean over images")
    whole_ticks(axes)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def draw_memory(numbers: dict[str, Any]) -> "Figure":
    """Memory of the process (solid) and the most its tensors took on a device so far (dashed), by outer step.

    Reference:
        Cao et al. (DPD), Fig. 2.
    """
    figure = new_figure(7.5, 4.4 + 0.16 * len(numbers["runs"]))
    axes = figure.add_subplot()
    for index, run in enumerate(numbers["runs"]):
        style = look(index) | {"markersize": 4, "markevery": spaced(len(run["steps"]))}
        axes.plot(run["steps"], numbers_of(run["resident_mb"]), **style, label=f"{run['name']}: process")
        device = numbers_of(run["device_mb"])
        if not np.isnan(device).all():
            axes.plot(run["steps"], device, **style, linestyle="--", label=f"{run['name']}: device, most so far")
    label(axes, "outer step", "memory (MB)", "Memory held while distilling")
    axes.set_ylim(bottom=0)
    whole_ticks(axes)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure
