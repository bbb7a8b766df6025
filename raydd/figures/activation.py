"""Bars: how many neurons synthetic images activate."""

from typing import TYPE_CHECKING, Any

from raydd.figures.style import COLOURS, label, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES = (("an image (mean over images)", "image", -0.2), ("at least one image of the set", "whole", 0.2))


def draw_activation(numbers: dict[str, Any]) -> "Figure":
    """Neurons that an image activates, and that the whole set does; a pair of bars a set.

    Reference:
        TGDD (Ran et al.), Fig. 4c.
    """
    sets = numbers["sets"]
    figure = new_figure(7.5, 1.9 + 0.85 * len(sets))
    axes, handles = figure.add_subplot(), []
    for index, (_, key, shift) in enumerate(SERIES):
        means, stds = ([100 * entry[key][what] for entry in sets] for what in ("mean", "std"))
        places = [place + shift for place in range(len(sets))]
        drawn = axes.barh(places, means, height=0.36, color=COLOURS[index], xerr=stds, capsize=3)
        axes.bar_label(drawn, [f"{mean:.1f} %" for mean in means], padding=6, fontsize="small")
        handles.append(drawn)
    axes.set_yticks(range(len(sets)), [entry["name"] for entry in sets])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    title = f"Activated by synthetic images, epoch {numbers['epoch']}"
    title += "" if numbers["experts"] == 1 else f", mean over {numbers['experts']} experts (lines: std)"
    label(axes, f"part of the network's {numbers['neurons']} neurons (%)", "", title)
    axes.grid(visible=False, axis="y")
    legend_below(figure, handles, [name for name, _, _ in SERIES])
    return figure
