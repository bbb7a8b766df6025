"""Bars: what a trajectory takes on disk, and what the parts of a method bring."""

from typing import TYPE_CHECKING, Any

from raydd.figures.style import COLOURS, label, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 2**20


def draw_storage(numbers: dict[str, Any]) -> "Figure":
    """Bytes an expert: with every epoch's snapshot, and convexified; a pair of bars a buffer.

    Reference:
        Zhong et al., arXiv 2406.19827 (MCT), Fig. 3c.
    """
    buffers = numbers["buffers"]
    figure = new_figure(7.5, 1.9 + 0.85 * len(buffers))
    axes = figure.add_subplot()
    series = (
        ("every epoch's snapshot", "full_bytes", -0.2),
        ("convexified: a few snapshots, and how far each epoch went", "convexified_bytes", 0.2),
    )
    handles = []
    for index, (_, key, shift) in enumerate(series):
        sizes = [(buffer[key] or 0) / MIB for buffer in buffers]
        places = [place + shift for place in range(len(buffers))]
        drawn = axes.barh(places, sizes, height=0.36, color=COLOURS[index])
        axes.bar_label(drawn, [_words(buffer, key) for buffer in buffers], padding=3, fontsize="small")
        handles.append(drawn)
    axes.set_yticks(range(len(buffers)), [buffer["name"] for buffer in buffers])
    axes.invert_yaxis()
    axes.margins(x=0.22)
    label(axes, "size on disk of one expert (MiB)", "", "Trajectories on disk")
    axes.grid(visible=False, axis="y")
    legend_below(figure, handles, [name for name, _, _ in series])
    return figure


def draw_ablation(numbers: dict[str, Any]) -> "Figure":
    """Test accuracy of each row of an ablation, a bar with its standard deviation over the networks.

    Reference:
        Ran et al. (TGDD), Table 4, as bars.
    """
    rows = [score for score in numbers["scores"] if score["kind"] == "distilled"]
    others = [score for score in numbers["scores"] if score["kind"] not in ("distilled", "whole")]
    shown = rows + others
    figure = new_figure(7.5, 1.2 + 0.45 * len(shown))
    axes = figure.add_subplot()
    means, deviations = ([100 * (score[key] or 0) for score in shown] for key in ("mean", "std"))  # of one: no bar
    colours = [COLOURS[0] if score in rows else COLOURS[5] for score in shown]
    drawn = axes.barh(range(len(shown)), means, xerr=deviations, height=0.6, color=colours, capsize=3)
    words = [f"{mean:.1f} ± {std:.1f}" for mean, std in zip(means, deviations, strict=True)]
    axes.bar_label(drawn, words, padding=6, fontsize="small")
    axes.set_yticks(range(len(shown)), [score["name"] for score in shown])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    label(axes, "test accuracy (%)", "", f"What each part of {numbers['method']} brings")
    axes.grid(visible=False, axis="y")
    return figure


def _words(buffer: dict[str, Any], key: str) -> str:
    if buffer[key] is None:
        return ""
    size = f"{buffer[key] / MIB:.3g} MiB"
    if key == "full_bytes":
        return size
    share = "" if buffer["ratio"] is None else f", {100 * buffer['ratio']:.1f} %"
    return f"{size}{share} (epochs {', '.join(map(str, buffer['kept']))})"
