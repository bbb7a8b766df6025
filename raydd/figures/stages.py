"""Curves by stage of the experts' training, a colour a synthetic set."""

from typing import TYPE_CHECKING, Any

from raydd.figures.style import label, legend_below, look, new_figure, numbers_of, spaced, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_similarity(numbers: dict[str, Any]) -> "Figure":
    """Correlation of real and synthetic mean features by stage.

    Reference:
        TGDD (Ran et al.), Fig. 4a.
    """
    figure, axes = _curves(numbers, 1.0)
    title = f"Features of real and synthetic images, {_experts(numbers)}"
    label(axes, "epoch t of the expert", "correlation of a class's mean features", title)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def draw_separability(numbers: dict[str, Any]) -> "Figure":
    """The experts' accuracy on synthetic images by stage (solid), and on real ones (dashed).

    Reference:
        TGDD (Ran et al.), Fig. 4b.
    """
    figure, axes = _curves(numbers, 100.0)
    reference = numbers["reference"]
    mean = 100 * numbers_of(reference["mean"])
    axes.plot(numbers["epochs"], mean, color="black", linestyle="--", label=f"real images ({reference['split']})")
    label(axes, "epoch t of the expert", "accuracy (%)", f"Synthetic images that are recognised, {_experts(numbers)}")
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def _curves(numbers: dict[str, Any], scale: float) -> tuple["Figure", "Axes"]:
    figure = new_figure(7.5, 4.4 + 0.16 * len(numbers["sets"]))
    axes, epochs = figure.add_subplot(), numbers["epochs"]
    for index, entry in enumerate(numbers["sets"]):
        mean, std = (scale * numbers_of(entry[key]) for key in ("mean", "std"))
        style = look(index)
        axes.plot(epochs, mean, **style, markersize=4, markevery=spaced(len(epochs)), label=entry["name"])
        axes.fill_between(epochs, mean - std, mean + std, color=style["color"], alpha=0.15, linewidth=0)
    whole_ticks(axes)
    return figure, axes


def _experts(numbers: dict[str, Any]) -> str:
    count = numbers["experts"]
    return "one expert" if count == 1 else f"{count} experts (band: std)"
