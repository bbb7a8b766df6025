"""A trajectory and its convexified form, seen in the plane that the trajectory spans best.

Shapes: `P` parameters, `T` snapshots, `S` points to show.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raydd.figures.style import label, legend_below, new_figure, numbers_of, series_style, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHUNK = 2**18
SERIES = (("trajectory", "trained"), ("convexified", "convexified"))


@dataclass(frozen=True, eq=False)
class Plane:
    """The first two principal axes of some points."""

    centre: Tensor  # the points' mean, (P,), float64
    axes: Tensor  # orthonormal, (2, P), float64; an axis without any variance is zero
    explained: Tensor  # each axis' part of the points' variance, (2,)

    def project(self, points: Tensor) -> Tensor:
        """Return coordinates (S, 2), float64, of points (S, P)."""
        return torch.stack([self.axes @ (point.double() - self.centre) for point in points])


def principal_plane(points: Tensor) -> Plane:
    """Return the plane of largest variance of points (T, P), T >= 1.

    It is exact: with X the centred points and X X^T u = lambda u, an axis is X^T u / sqrt(lambda), and only the Gram
    matrix (T, T) is computed. Signs are such that the last point has no negative coordinate.

    >>> plane = principal_plane(torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [4.0, 0.0, 1.0]]))
    >>> plane.axes.round(decimals=6).tolist(), plane.explained.tolist()
    ([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [1.0, 0.0])
    """
    chunks = points.split(CHUNK, dim=1)
    gram = sum((x @ x.T for x in map(_centred, chunks)), torch.zeros(len(points), len(points), dtype=torch.float64))
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    total = values.sum()
    held = values > 1e-12 * total  # what is left of a zero after rounding is no direction
    scale = torch.where(held, values.rsqrt(), 0.0)
    signs = torch.where(vectors[-1] < 0, -1.0, 1.0)
    weights = _two(vectors * (scale * signs))
    axes = torch.cat([weights.T @ _centred(chunk) for chunk in chunks], dim=1)
    explained = torch.where(held, values / total, 0.0)
    return Plane(points.double().mean(dim=0), axes, _two(explained[None])[0])


def _centred(points: Tensor) -> Tensor:
    return points.double() - points.double().mean(dim=0)


def _two(columns: Tensor) -> Tensor:
    """Return the first two columns, with zeros for missing ones."""
    return torch.nn.functional.pad(columns, (0, 2))[:, :2]


def draw_landscape(numbers: dict[str, Any]) -> "Figure":
    """Draw both paths in the plane, coloured by accuracy, and their accuracy by epoch.

    Reference: Zhong et al., arXiv 2406.19827 (MCT), Fig. 1a.

    Differs:
        The paper draws 1 - accuracy as height in three dimensions; colour and a second panel can be read off.
    """
    figure = new_figure(11, 5)
    plane, curves = figure.subplots(1, 2, width_ratios=(1.25, 1))
    values = [numbers_of(numbers[key]["accuracy"]) * 100 for key, _ in SERIES]
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    for index, (key, name) in enumerate(SERIES):
        path, style = numbers[key], series_style(index)
        plane.plot(path["x"], path["y"], color=style["color"], linewidth=1, alpha=0.6, zorder=1)
        marks = {"c": values[index], "cmap": "viridis", "vmin": low, "vmax": high, "marker": style["marker"]}
        dots = plane.scatter(path["x"], path["y"], s=34, edgecolors=style["color"], linewidths=0.9, **marks)
        curves.plot(numbers["epochs"], values[index], **style, markersize=4, label=name)
    _mark_epochs(plane, curves, numbers, values[1])
    figure.colorbar(dots, ax=plane, label=f"{numbers['split']} accuracy (%)")
    first, second = (f"{100 * part:.1f} % of the variance" for part in numbers["explained"])
    label(plane, f"axis 1 ({first})", f"axis 2 ({second})", "Weights in the trained path's principal plane")
    plane.set_aspect("equal", adjustable="datalim")
    plane.margins(0.08)
    label(curves, "epoch t", f"{numbers['split']} accuracy (%)", "Accuracy along the paths")
    whole_ticks(curves)
    title = f"{numbers['name']}, expert {numbers['expert']}: the trained trajectory and its convexified form"
    figure.suptitle(title, fontsize="medium")
    legend_below(figure)
    return figure


def _mark_epochs(plane: "Axes", curves: "Axes", numbers: dict[str, Any], accuracy: Any) -> None:
    epochs, path = numbers["kept"], numbers["convexified"]
    ring: dict[str, Any] = {
        "linestyle": "",
        "marker": "o",
        "markersize": 11,
        "markerfacecolor": "none",
        "color": "black",
    }
    plane.plot([path["x"][t] for t in epochs], [path["y"][t] for t in epochs], **ring)
    curves.plot(epochs, accuracy[epochs], **ring, label="snapshots that are kept")
    for t in epochs:
        place = (path["x"][t], path["y"][t])
        plane.annotate(f"{t}", place, xytext=(8, 6), textcoords="offset points", fontsize="small")
