"""What the figures draw: the numbers they are given, with names and units, as a PNG that opens."""

import io

import numpy as np
import pytest
from PIL import Image

from raydd.figures.analysis_tables import (
    convergence_table,
    cost_table,
    experts_table,
    labels_table,
    landscape_table,
    matching_table,
    memory_table,
    storage_table,
)
from raydd.figures.bars import draw_cost, draw_storage
from raydd.figures.curves import draw_convergence, draw_experts, draw_labels, draw_matching, draw_memory
from raydd.figures.landscape import draw_landscape
from raydd.figures.style import save_figure


def spread(mean, std=None):
    return {"mean": mean, "std": std or [0.0 for _ in mean]}


def expert_buffer(name="sgd, a", change=(4.0, 1.0), accuracy=(0.1, 0.5, 0.75)):
    return {
        "name": name,
        "experts": 2,
        "epochs": 2,
        "avg_var": {"mean": 2.5, "std": 0.5},
        "last": {"mean": accuracy[-1], "std": 0.0 if accuracy[-1] else None},
        "best": {"mean": accuracy[-1], "std": 0.0 if accuracy[-1] else None},
        "change": {"epochs": [1, 2]} | spread(list(change)),
        "accuracy": {"epochs": [0, 1, 2]} | spread(list(accuracy)),
    }


EXPERTS = {"split": "validation", "buffers": [expert_buffer(), expert_buffer("gsam, b", (2.0, 0.5))]}
LANDSCAPE = {
    "name": "a",
    "expert": 3,
    "split": "validation",
    "kept": [0, 2],
    "epochs": [0, 1, 2],
    "explained": [0.75, 0.125],
    "trajectory": {"x": [-1.0, 0.0, 1.0], "y": [0.0, 1.0, 0.0], "accuracy": [0.1, 0.5, 0.75]},
    "convexified": {"x": [-1.0, 0.0, 1.0], "y": [0.0, 0.0, 0.0], "accuracy": [0.1, 0.25, 0.75]},
}
MIB = 2**20
STORAGE = {
    "waypoints": [],
    "buffers": [
        {"name": "a", "experts": 2, "full_bytes": 8 * MIB, "convexified_bytes": MIB, "ratio": 0.125, "kept": [0, 50]},
        {"name": "b", "experts": 2, "full_bytes": None, "convexified_bytes": MIB, "ratio": None, "kept": [0, 6, 50]},
    ],
}
MATCHING = {
    "name": "run",
    "start_epochs": [0, 1],
    "steps": [0, 10, 20],
    "losses": [[0.9, 1.2], [0.8, None], [0.7, 1.1]],
}
LABELS = {"runs": [{"name": "a", "steps": [0, 5], "label_std": [0.2, 0.25]}]}
MEMORY = {
    "runs": [
        {"name": "a", "steps": [1, 2], "resident_mb": [800.0, 900.0], "device_mb": [None, None]},
        {"name": "b", "steps": [1, 2], "resident_mb": [700.0, 600.0], "device_mb": [90.0, 80.0]},
    ]
}
CONVERGENCE = {
    "split": "validation",
    "near": 0.02,
    "runs": [
        {"name": "a", "steps": [0, 5], "accuracy": [0.25, 0.5], "best": 0.5, "last": 0.5, "near_step": 5}
        | {"near_seconds": 2.0},
        {"name": "b", "steps": [0, 5, 9], "accuracy": [0.25, 0.75, 0.5], "best": 0.75, "last": 0.5, "near_step": 5}
        | {"near_seconds": None},
    ],
}
COST = {
    "runs": [
        {"name": "a", "method": "mtt", "ipc": 1.0, "steps": 10, "seconds": 25.0, "step_seconds": 2.5}
        | {"memory_mb": 900.0, "on_device": False, "accuracy": 0.5},
        {"name": "b", "method": "dm", "ipc": 1.0, "steps": 4, "seconds": 1.0, "step_seconds": 0.25}
        | {"memory_mb": None, "on_device": False, "accuracy": None},
    ]
}
FIGURES = [
    (draw_convergence, convergence_table, CONVERGENCE),
    (draw_cost, cost_table, COST),
    (draw_experts, experts_table, EXPERTS),
    (draw_landscape, landscape_table, LANDSCAPE),
    (draw_storage, storage_table, STORAGE),
    (draw_matching, matching_table, MATCHING),
    (draw_labels, labels_table, LABELS),
    (draw_memory, memory_table, MEMORY),
]


def ydata(axes):
    return [list(line.get_ydata()) for line in axes.get_lines()]


def cells(table):
    """Columns of a table by name."""
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


@pytest.mark.parametrize(("draw", "_table", "numbers"), FIGURES)
def test_a_figure_is_a_png_with_named_axes(draw, _table, numbers, tmp_path):
    figure = draw(numbers)
    path = save_figure(figure, tmp_path / "new" / "figure.png")
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
    assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)
    assert any(axes.get_title(loc="left") for axes in figure.axes)
    assert save_figure(draw(numbers), tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_curves_of_experts():
    left, right = draw_experts(EXPERTS).axes
    assert ydata(left) == [[10, 50, 75], [10, 50, 75]]
    assert ydata(right) == [[4, 1], [2, 0.5]]
    assert right.get_yscale() == "log"
    assert {line.get_linestyle() for line in right.get_lines()} == {"--"}
    assert len({line.get_color() for line in left.get_lines()}) == 2
    found = cells(experts_table(EXPERTS))
    assert found["Avg_Var"] == ["2.5 ± 0.5"] * 2
    assert found["last"] == ["75.0 ± 0.0"] * 2


def test_experts_without_accuracy_that_stand_still():
    buffer = expert_buffer(change=(0.0, 0.0), accuracy=(None, None, None))
    buffer["accuracy"]["std"] = [None, None, None]
    numbers = {"split": "validation", "buffers": [buffer]}
    left, right = draw_experts(numbers).axes
    assert np.isnan(ydata(left)).all()
    assert ydata(right) == [[0, 0]]
    assert cells(experts_table(numbers))["best"] == ["-"]


def test_both_paths_of_a_landscape():
    plane, curves, bar = draw_landscape(LANDSCAPE).axes
    assert ydata(plane) == [[0, 1, 0], [0, 0, 0], [0, 0]]
    assert [list(dots.get_array()) for dots in plane.collections] == [[10, 50, 75], [10, 25, 75]]
    assert ydata(curves) == [[10, 50, 75], [10, 25, 75], [10, 75]]
    assert "75.0 %" in plane.get_xlabel()
    assert "12.5 %" in plane.get_ylabel()
    assert bar.get_ylabel() == "validation accuracy (%)"
    dip = LANDSCAPE | {"convexified": LANDSCAPE["convexified"] | {"accuracy": [0.5, 0.125, 0.75]}}
    assert cells(landscape_table(dip))["largest fall"] == ["0.0", "37.5"]


def test_bars_of_storage():
    (axes,) = draw_storage(STORAGE).axes
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[8], [1, 1]]
    words = [text.get_text() for text in axes.texts]
    assert words == ["8 MiB", "1 MiB, 12.5 % (epochs 0, 50)", "1 MiB (epochs 0, 6, 50)"]
    assert cells(storage_table(STORAGE))["bytes an expert"] == ["8,388,608", "-"]


def test_lines_of_matching_darken_with_the_start_epoch():
    axes = draw_matching(MATCHING).axes[0]
    first, second, even = axes.get_lines()
    assert list(first.get_ydata()) == [0.9, 0.8, 0.7]
    np.testing.assert_equal(second.get_ydata(), np.array([1.2, np.nan, 1.1]))
    assert (even.get_linestyle(), set(even.get_ydata())) == ("--", {1})
    assert sum(first.get_color()[:3]) > sum(second.get_color()[:3])
    assert cells(matching_table(MATCHING)) == {
        "start epoch": ["0", "1"],
        "first": ["0.9", "1.2"],
        "last": ["0.7", "1.1"],
    }


def test_one_measure_of_one_start_epoch_is_seen():
    numbers = MATCHING | {"start_epochs": [0], "steps": [0], "losses": [[0.9]]}
    line = draw_matching(numbers).axes[0].get_lines()[0]
    assert line.get_marker() == "o"
    assert cells(matching_table(numbers))["last"] == ["0.9"]


def test_a_table_of_many_start_epochs_has_the_first_and_the_last():
    numbers = MATCHING | {"start_epochs": list(range(49)), "losses": [[0.5] * 49] * 3}
    shown = cells(matching_table(numbers))["start epoch"]
    assert (shown[0], shown[-1], len(shown)) == ("0", "48", 8)


def test_memory_of_a_device_is_drawn_where_there_is_one():
    (axes,) = draw_memory(MEMORY).axes
    assert ydata(axes) == [[800, 900], [700, 600], [90, 80]]
    assert [line.get_linestyle() for line in axes.get_lines()] == ["-", "-", "--"]
    assert axes.get_ylim()[0] == 0
    assert ydata(draw_convergence(CONVERGENCE).axes[0]) == [[25.0, 50.0], [25.0, 75.0, 50.0]]
    assert cells(convergence_table(CONVERGENCE)) == {
        "run": ["a", "b"],
        "best": ["50.0", "75.0"],
        "last": ["50.0", "50.0"],
        "near at step": ["5", "5"],
        "after seconds": ["2", "-"],
    }
    assert [bar.get_width() for bar in draw_cost(COST).axes[0].patches] == [2.5, 0.25]
    assert cells(cost_table(COST))["MB"] == ["900", "-"]
    assert cells(memory_table(MEMORY)) == {"run": ["a", "b"], "process": ["900", "700"], "device": ["-", "90"]}


def test_spread_of_labels():
    (axes,) = draw_labels(LABELS).axes
    assert ydata(axes) == [[0.2, 0.25]]
    assert cells(labels_table(LABELS)) == {"run": ["a"], "first": ["0.2000"], "last": ["0.2500"]}
