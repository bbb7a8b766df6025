"""The curves of class-incremental learning and their table."""

import io

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from raydd.figures.continual import continual_tables, draw_continual
from raydd.figures.style import save_figure


def run(name, mean, kind="distilled", std=None, networks=3):
    count = len(mean)
    classes = [10 // count * step for step in range(1, count + 1)]
    found = {
        "name": name,
        "kind": kind,
        "steps": count,
        "classes": classes,
        "mean": mean,
        "networks": networks,
        "values": (),
    }
    return found | {"std": std or [0.0] * count}


DOCUMENT = {
    "dataset": "digits",
    "network": "ConvNet",
    "protocol": "mtt",
    "runs": [
        run("tgdd", [1.0, 0.75, 0.5, 0.5, 0.25], std=[0.0, 0.125, 0.125, 0.25, 0.0625]),
        run("whole data", [1.0, 1.0, 0.75, 0.75, 0.75], kind="whole", std=[None] * 5, networks=1),
        run("tgdd", [0.5, 0.25]),
        run("herding", [0.25, 0.125]),
    ],
}


def cells(table):
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def curves(axes):
    return [(list(line.get_xdata()), list(line.get_ydata()), line.get_linestyle()) for line in axes.get_lines()]


def one_panel():
    return DOCUMENT | {"runs": DOCUMENT["runs"][:2]}


@pytest.mark.parametrize("document", [DOCUMENT, one_panel()], ids=["two", "one"])
def test_a_figure_is_a_png_that_stays_the_same(document, tmp_path):
    path = save_figure(draw_continual(document), tmp_path / "continual.png")
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
    assert save_figure(draw_continual(document), tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_a_panel_a_number_of_steps_with_its_curves():
    figure = draw_continual(DOCUMENT)
    two, five = figure.axes
    assert curves(two) == [([5, 10], [50, 25], "-"), ([5, 10], [25, 12.5], "-")]
    assert curves(five) == [
        ([2, 4, 6, 8, 10], [100, 75, 50, 50, 25], "-"),
        ([2, 4, 6, 8, 10], [100, 100, 75, 75, 75], "--"),
    ]
    assert [axes.get_title(loc="left") for axes in (two, five)] == ["2 steps", "5 steps"]
    assert two.get_xlabel() == five.get_xlabel() == "classes seen"
    assert two.get_ylabel() == "test accuracy on the classes seen (%)"
    assert figure.get_suptitle().startswith("digits, ConvNet, protocol mtt")
    assert list(five.get_xticks()) == [2, 4, 6, 8, 10]


def test_a_memory_has_one_colour_in_all_panels():
    figure = draw_continual(DOCUMENT)
    two, five = figure.axes
    assert two.get_lines()[0].get_color() == five.get_lines()[0].get_color()
    assert two.get_lines()[0].get_color() != two.get_lines()[1].get_color()
    (drawn,) = figure.legends
    assert [text.get_text() for text in drawn.get_texts()] == ["tgdd", "herding", "whole data"]


def test_the_band_is_one_standard_deviation():
    _, five = draw_continual(DOCUMENT).axes
    (band,) = five.collections  # the run without std has none
    found = {tuple(point) for point in band.get_paths()[0].vertices.tolist()}
    assert {(4.0, 62.5), (4.0, 87.5), (8.0, 25.0), (8.0, 75.0), (10.0, 18.75), (10.0, 31.25)} <= found


def test_no_text_leaves_the_figure_or_lies_on_another():
    runs = [run(f"{letter} set from a folder with a very long name/step-{letter}", [0.5, 0.25]) for letter in "abc"]
    for document in (DOCUMENT, DOCUMENT | {"runs": runs}, DOCUMENT | {"runs": runs[:2]}):
        figure = draw_continual(document)
        FigureCanvasAgg(figure).draw()
        drawn = [figure._suptitle, *figure.legends]
        for axes in figure.axes:
            drawn += [axes._left_title, axes.xaxis.label, *([axes.yaxis.label] if axes.get_ylabel() else [])]
        boxes = [part.get_window_extent() for part in drawn]
        width, height = figure.bbox.width, figure.bbox.height
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
        assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_a_table_a_number_of_steps_with_every_step_and_their_mean():
    two, five = (cells(table) for table in continual_tables(DOCUMENT))
    assert two == {
        "memory": ["5 classes", "10 classes", "mean over steps"],
        "tgdd": ["50.0 ± 0.0 (3)", "25.0 ± 0.0 (3)", "37.5 (3)"],
        "herding": ["25.0 ± 0.0 (3)", "12.5 ± 0.0 (3)", "18.8 (3)"],
    }
    assert five["memory"][-2:] == ["10 classes", "mean over steps"]
    assert five["tgdd"][-2:] == ["25.0 ± 6.2 (3)", "60.0 (3)"]
    assert five["whole data"] == ["100.0 (1)", "100.0 (1)", "75.0 (1)", "75.0 (1)", "75.0 (1)", "85.0 (1)"]
