"""Horizontal bars: sizes on disk, shares, activated neurons, and accuracies."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from raydd.figures.style import COLOURS, WIDTH, label, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 2**20


class Series(NamedTuple):
    """Bars of one colour, at most one a row."""

    name: str  # its name in the legend
    values: Sequence[float | None]  # a length a row; None draws no bar
    texts: Sequence[str]  # what is written at the end of each bar
    stds: Sequence[float | None] | None = None  # half the length of each error bar; None draws none
    colour: int | None = None  # the index of its colour; None takes its position among the series


def draw_bars(
    names: Sequence[str], series: Sequence[Series], x: str, title: str, *, room: float = 0.2, width: float = WIDTH
) -> "Figure":
    """Draw a row of bars a name, from the top, and a legend where there are several series.

    Of the width, which is in inches, the share `room` is left for the texts beside the bars.
    """
    members = [[one for one in range(len(series)) if series[one].values[row] is not None] for row in range(len(names))]
    rows = sum(0.1 + 0.36 * max(1, len(each)) for each in members)
    figure = new_figure(width, 1.1 + rows + (0.15 * len(series) if len(series) > 1 else 0))
    axes = figure.add_subplot()
    for index, one in enumerate(series):
        own = [row for row, each in enumerate(members) if index in each]
        at = [row + 0.4 * (members[row].index(index) - (len(members[row]) - 1) / 2) for row in own]
        errors = None if one.stds is None else [one.stds[row] or 0.0 for row in own]
        colour = COLOURS[(index if one.colour is None else one.colour) % len(COLOURS)]
        height = 0.36 if max(map(len, members)) > 1 else 0.6
        values = [one.values[row] or 0.0 for row in own]
        drawn = axes.barh(at, values, height, xerr=errors, color=colour, label=one.name, capsize=3)
        axes.bar_label(drawn, [one.texts[row] for row in own], padding=5, fontsize="small")
    axes.set_yticks(range(len(names)), [fill(name, int(5.5 * width)) for name in names])
    axes.invert_yaxis()
    axes.margins(x=room)
    label(axes, x, "", fill(title, int(11 * width)))
    axes.grid(visible=False, axis="y")
    if len(series) > 1:
        legend_below(figure)
    return figure


def draw_activation(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the share of neurons that an image activates, and that the whole set does; a pair of bars a set.

    Reference: TGDD (Ran et al.), Fig. 4c.
    """
    sets, series = numbers["sets"], []
    for name, key in (("an image (mean over images)", "image"), ("at least one image of the set", "whole")):
        means, stds = ([100 * one[key][what] for one in sets] for what in ("mean", "std"))
        series.append(Series(name, means, [f"{mean:.1f} %" for mean in means], stds))
    title = f"Activated by synthetic images, epoch {numbers['epoch']}"
    title += "" if numbers["experts"] == 1 else f", mean over {numbers['experts']} experts (lines: std)"
    x = f"part of the network's {numbers['neurons']} neurons (%)"
    return draw_bars([one["name"] for one in sets], series, x, title, room=0.15)


def draw_storage(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the bytes of an expert: with every epoch's snapshot, and convexified; a pair of bars a buffer.

    Reference: Zhong et al., arXiv 2406.19827 (MCT), Fig. 3c.
    """
    buffers, series = numbers["buffers"], []
    for name, key in (
        ("every epoch's snapshot", "full_bytes"),
        ("convexified: a few snapshots, and how far each epoch went", "convexified_bytes"),
    ):
        sizes = [None if buffer[key] is None else buffer[key] / MIB for buffer in buffers]
        series.append(Series(name, sizes, [_storage_text(buffer, key) for buffer in buffers]))
    names = [buffer["name"] for buffer in buffers]
    return draw_bars(names, series, "size on disk of one expert (MiB)", "Trajectories on disk", room=0.22)


def draw_ablation(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the test accuracy of each row of an ablation, with its standard deviation over the networks.

    Reference: Ran et al. (TGDD), Table 4, as bars.
    """
    rows = [score for score in numbers["scores"] if score["kind"] != "whole"]
    rows = sorted(rows, key=lambda score: score["kind"] != "distilled")
    return draw_scores(rows, f"What each part of {numbers['method']} brings")


def draw_cost(numbers: Mapping[str, Any]) -> "Figure":
    """Draw the seconds of an outer step, the peak memory and the accuracy at the end, a panel each, a row a run.

    Reference: Shen et al., arXiv 2310.10541 (AST), Table VI; Ran et al., arXiv 2512.02469 (TGDD), Fig. 1.
    """
    runs = numbers["runs"]
    names = [fill(run["name"], 24) for run in runs]
    panels = (
        ("seconds of an outer step", [run["step_seconds"] for run in runs], ".3g"),
        ("peak memory (MB)", [run["memory_mb"] for run in runs], ",.0f"),
        ("validation accuracy (%)", [run["accuracy"] and 100 * run["accuracy"] for run in runs], ".1f"),
    )
    figure = new_figure(WIDTH * 1.4, 2.2 + 0.4 * len(runs))
    for index, (axes, panel) in enumerate(zip(figure.subplots(1, 3, sharey=True), panels, strict=True)):
        x, values, digits = panel
        bars = axes.barh(names, [value or 0.0 for value in values], 0.6, color=COLOURS[index])
        axes.bar_label(bars, ["-" if value is None else format(value, digits) for value in values], padding=4)
        axes.margins(x=0.35)
        label(axes, x, "", "What runs took" if not index else "")
        axes.grid(visible=False, axis="y")
    figure.axes[0].invert_yaxis()
    return figure


def draw_scores(scores: Sequence[Mapping[str, Any]], title: str, *, width: float = WIDTH) -> "Figure":
    """Draw the accuracy of scores (``name, kind, mean, std``, fractions); the colour tells the training images."""
    words = {"distilled": "synthetic images", "whole": "all real images"}
    groups = [words.get(score["kind"], "real images") for score in scores]
    ends = [100 * (score["std"] or 0) for score in scores]
    means = [100 * score["mean"] for score in scores]
    texts = [f"{mean:.1f} ± {std:.1f}" if std else f"{mean:.1f}" for mean, std in zip(means, ends, strict=True)]
    series = []
    for colour, group in ((0, "synthetic images"), (5, "real images"), (2, "all real images")):
        values = [mean if own == group else None for mean, own in zip(means, groups, strict=True)]
        if group in groups:
            series.append(Series(group, values, texts, ends, colour))
    return draw_bars([score["name"] for score in scores], series, "test accuracy (%), lines: std", title, width=width)


def _storage_text(buffer: Mapping[str, Any], key: str) -> str:
    if buffer[key] is None:
        return ""
    size = f"{buffer[key] / MIB:.3g} MiB"
    if key == "full_bytes":
        return size
    share = "" if buffer["ratio"] is None else f", {100 * buffer['ratio']:.1f} %"
    return f"{size}{share} (epochs {', '.join(map(str, buffer['kept']))})"
