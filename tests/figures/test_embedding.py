"""t-SNE of points, and the figures by stage."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from raydd.figures.analysis_tables import activation_table, embedding_table, separability_table, similarity_table
from raydd.figures.bars import draw_activation
from raydd.figures.curves import draw_separability, draw_similarity
from raydd.figures.embedding import class_colours, draw_embedding, tsne
from raydd.figures.style import save_figure

SIMILARITY = {
    "buffer": "sgd",
    "experts": 2,
    "epochs": [0, 5],
    "sets": [
        {"name": "a", "mean": [0.5, 0.75], "std": [0.125, 0.25]},
        {"name": "b", "mean": [0.25, None], "std": [0.0, None]},
    ],
}
SEPARABILITY = SIMILARITY | {"reference": {"split": "validation", "mean": [0.1, 0.9], "std": [0.0, 0.0]}}
ACTIVATION = {
    "buffer": "sgd",
    "experts": 2,
    "epoch": 5,
    "neurons": 384,
    "sets": [
        {"name": "a", "images": 40, "image": {"mean": 0.25, "std": 0.125}, "whole": {"mean": 0.75, "std": 0.0}},
        {"name": "b", "images": 10, "image": {"mean": 0.125, "std": 0.0}, "whole": {"mean": 0.5, "std": 0.0}},
    ],
}
POINTS = {"real": {"x": [0.0, 1.0, 2.0], "y": [3.0, 4.0, 5.0]}, "synthetic": {"x": [-1.0, -2.0], "y": [6.0, 7.0]}}
EMBEDDING = {
    "buffer": "sgd",
    "expert": 1,
    "set": {"name": "run"},
    "class_names": ["cat", "dog"],
    "classes": {"real": [0, 1, 1], "synthetic": [1, 0]},
    "stages": [{"epoch": 0, "divergence": 0.5} | POINTS, {"epoch": 5, "divergence": 0.25} | POINTS],
}
FIGURES = [
    (draw_similarity, SIMILARITY),
    (draw_separability, SEPARABILITY),
    (draw_activation, ACTIVATION),
    (draw_embedding, EMBEDDING),
]


def clusters(features, each=25):
    """Three groups far apart: points and their group."""
    rng = torch.Generator().manual_seed(0)
    middles = 20 * torch.randn(3, features, generator=rng)
    return torch.cat([m + torch.randn(each, features, generator=rng) for m in middles]), torch.arange(
        3
    ).repeat_interleave(each)


def ydata(axes):
    return [list(line.get_ydata()) for line in axes.get_lines()]


def cells(table):
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


@pytest.mark.parametrize("features", [2, 80])
def test_neighbours_stay_neighbours(features):
    points, group = clusters(features)
    plane = tsne(points, torch.Generator().manual_seed(3))
    assert (plane.points.shape, plane.points.dtype) == ((75, 2), torch.float64)
    far = torch.cdist(plane.points, plane.points).fill_diagonal_(torch.inf)
    assert torch.equal(group[far.argmin(dim=1)], group)
    assert 0 < plane.divergence < 1
    again = tsne(points, torch.Generator().manual_seed(3))
    assert torch.equal(again.points, plane.points)


def test_so_few_points_that_the_perplexity_must_give_way():
    points, _ = clusters(3, each=2)
    assert tsne(points, torch.Generator()).points.isfinite().all()


@pytest.mark.parametrize(("draw", "numbers"), FIGURES)
def test_a_figure_has_named_axes_and_equal_bytes(draw, numbers, tmp_path):
    figure = draw(numbers)
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert all(axes.get_title(loc="left") for axes in figure.axes)
    first, again = (save_figure(draw(numbers), tmp_path / f"{name}.png").read_bytes() for name in "ab")
    assert first == again


def test_curves_of_similarity():
    (axes,) = draw_similarity(SIMILARITY).axes
    first, second = ydata(axes)
    assert first == [0.5, 0.75]
    np.testing.assert_equal(second, [0.25, np.nan])
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[0, 5]] * 2
    assert "2 experts" in axes.get_title(loc="left")
    assert cells(similarity_table(SIMILARITY)) == {
        "set": ["a", "b"],
        "epoch 0": ["0.500 ± 0.125", "0.250 ± 0.000"],
        "epoch 5": ["0.750 ± 0.250", "-"],
        "mean of all stages": ["0.625", "0.250"],
    }


def test_curves_of_separability_stand_beside_real_images():
    (axes,) = draw_separability(SEPARABILITY).axes
    assert ydata(axes)[0] == [50, 75]
    assert ydata(axes)[2] == [10, 90]
    assert [line.get_linestyle() for line in axes.get_lines()] == ["-", "-", "--"]
    found = cells(separability_table(SEPARABILITY))
    assert found["set"] == ["a", "b", "real images (validation)"]
    assert found["mean of all stages"] == ["62.5", "25.0", "50.0"]
    blind = SEPARABILITY | {"reference": {"split": "validation", "mean": [None, None], "std": [None, None]}}
    assert cells(separability_table(blind))["epoch 5"][-1] == "-"
    assert np.isnan(ydata(draw_separability(blind).axes[0])[2]).all()


def test_bars_of_activation():
    (axes,) = draw_activation(ACTIVATION).axes
    bars = [box for box in axes.containers if hasattr(box, "patches")]
    assert [[bar.get_width() for bar in box] for box in bars] == [[25, 12.5], [75, 50]]
    assert [text.get_text() for text in axes.texts] == ["25.0 %", "12.5 %", "75.0 %", "50.0 %"]
    assert "384" in axes.get_xlabel()
    found = cells(activation_table(ACTIVATION))
    assert found["an image"] == ["25.0 ± 12.5", "12.5 ± 0.0"]
    assert found["images"] == ["40", "10"]


def test_points_of_an_embedding_have_their_classes_colours():
    figure = draw_embedding(EMBEDDING)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["epoch 0", "epoch 5"]
    real, synthetic = figure.axes[1].collections
    assert real.get_offsets().tolist() == [[0, 3], [1, 4], [2, 5]]
    assert synthetic.get_offsets().tolist() == [[-1, 6], [-2, 7]]
    cat, dog = (colour.lower() for colour in class_colours(2))
    assert [to_hex(colour) for colour in real.get_facecolors()] == [cat, dog, dog]
    assert [to_hex(colour) for colour in synthetic.get_facecolors()] == [dog, cat]
    assert synthetic.get_sizes()[0] > 4 * real.get_sizes()[0]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["real", "synthetic", "cat", "dog"]
    assert cells(embedding_table(EMBEDDING)) == {
        "epoch": ["0", "5"],
        "real": ["3", "3"],
        "synthetic": ["2", "2"],
        "KL divergence": ["0.5", "0.25"],
    }


@pytest.mark.parametrize("count", [2, 7, 10, 20, 200])
def test_every_class_has_its_own_colour(count):
    assert len({to_hex(colour) for colour in class_colours(count)}) == count


def test_many_classes_are_not_named():
    names = [str(index) for index in range(21)]
    words = [text.get_text() for text in draw_embedding(EMBEDDING | {"class_names": names}).legends[0].get_texts()]
    assert words == ["real", "synthetic"]
