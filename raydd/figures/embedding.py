"""Points of many dimensions in one plane, neighbours beside neighbours.

Shapes: `n` points, `F` features.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from raydd.figures.style import COLOURS, label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_FEATURES = 50  # van der Maaten's advice: principal components first
PERPLEXITY = 30.0
MOST_NAMED = 20  # classes
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("real", {"marker": "o", "alpha": 0.35, "linewidths": 0}),
    ("synthetic", {"marker": "*", "edgecolors": "black", "linewidths": 0.4}),
)


class Plane(NamedTuple):
    """Where points lie in a plane, and how well that shows their neighbours."""

    points: Tensor  # (n, 2), float64
    divergence: float  # Kullback-Leibler, in nats; 0 is a perfect picture


def tsne(points: Tensor, rng: torch.Generator) -> Plane:
    """Return the t-SNE of points (n, F), n >= 4, F >= 2, started at the principal axes.

    The perplexity is 30, and less below 91 points. More than 50 features are reduced to 50 principal components first.

    Reference: van der Maaten and Hinton, JMLR 9 (2008); Barnes-Hut form, JMLR 15 (2014).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    seed, values = int(torch.randint(2**31, (), generator=rng)), points.double().numpy()
    with threadpool_limits(1):  # sums depend on the number of threads
        if min(values.shape) > MOST_FEATURES:
            values = PCA(MOST_FEATURES, svd_solver="covariance_eigh").fit_transform(values)
        fitted = TSNE(perplexity=min(PERPLEXITY, (len(values) - 1) / 3), init="pca", random_state=seed).fit(values)
    return Plane(torch.from_numpy(fitted.embedding_).double(), float(fitted.kl_divergence_))


def draw_embedding(numbers: dict[str, Any]) -> "Figure":
    """Draw real images as dots and synthetic ones as stars, coloured by class, a panel a stage.

    Reference: TGDD (Ran et al.), Fig. 2 and 5.
    """
    from matplotlib.lines import Line2D

    stages, names = numbers["stages"], numbers["class_names"]
    colours = class_colours(len(names))
    figure = new_figure(1 + 3.6 * len(stages), 4.6)
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        _panel(axes, stage, numbers["classes"], colours)
    title = f"{numbers['set']['name']}: features of expert {numbers['expert']} of {numbers['buffer']}, by t-SNE"
    figure.suptitle(title, fontsize="medium")
    entries: list[tuple[str, str, Any, float | None]]
    entries = [(kind, style["marker"], "grey", size) for (kind, style), size in zip(KINDS, (4, 10), strict=True)]
    if len(names) <= MOST_NAMED:
        entries += [(name, "s", colour, None) for name, colour in zip(names, colours, strict=True)]
    handles = [Line2D([], [], linestyle="", marker=m, color=c, markersize=s, label=name) for name, m, c, s in entries]
    columns = min(6, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    return figure


def _panel(axes: "Axes", stage: dict[str, Any], classes: dict[str, list[int]], colours: list[Any]) -> None:
    stars = min(110.0, max(25.0, 12000 / len(classes["synthetic"])))  # many would hide the dots
    for (kind, style), size in zip(KINDS, (7.0, stars), strict=True):
        axes.scatter(stage[kind]["x"], stage[kind]["y"], size, [colours[c] for c in classes[kind]], **style)
    label(axes, "t-SNE 1", "t-SNE 2", f"epoch {stage['epoch']}")
    axes.set_xticks([])  # distances mean nothing but near and far
    axes.set_yticks([])


def class_colours(count: int) -> list[Any]:
    """Return a colour a class, as far apart as possible."""
    import matplotlib

    if count <= len(COLOURS):
        return list(COLOURS[:count])
    if count <= MOST_NAMED:
        return list(matplotlib.colormaps["tab10" if count <= 10 else "tab20"].colors[:count])  # type: ignore[attr-defined]
    return [matplotlib.colormaps["turbo"]((index + 0.5) / count) for index in range(count)]
