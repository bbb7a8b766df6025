"""The scatter of two rankings and its table: the places and marks of a document, with names and units."""

import copy
import csv
import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from PIL import Image
from rich.console import Console

from raydd.evaluation.rank_agreement import agreement
from raydd.figures.ranking import draw_ranking, ranking_csv, ranking_table
from raydd.figures.style import COLOURS, save_figure
from raydd.models.spaces import SPACES

REAL = {"w32": 0.5, "w64": 0.75, "w128": 0.9, "w256": 0.95, "deep": 0.25}
DISTILLED = {"w32": 0.3, "w64": 0.6, "w128": 0.85, "w256": 0.8, "deep": 0.2, "not trained on real data": 0.9}
RANDOM = {"w32": 0.2, "w64": 0.5, "w128": 0.4, "w256": 0.3, "deep": 0.1}


def proxy(name, scores, stopped=(), tops=(2, 10), **extra):
    ranks = {arch: (int(arch not in stopped), value) for arch, value in scores.items()}
    agreed = agreement(ranks, extra.pop("real", REAL), tops)
    return {"name": name, "scores": scores, "stopped": list(stopped), "agreement": agreed} | extra


DOCUMENT = {
    "space": "convnet720",
    "dataset": "digits",
    "proxy_label": "on 100 images, 200 epochs",
    "real_label": "on all images, 60 epochs",
    "real": REAL,
    "real_seconds": 7300.0,
    "proxies": [proxy("distilled", DISTILLED, ["deep", "w32"], seconds=125.0), proxy("random", RANDOM)],
}


def changed(**parts):
    return copy.deepcopy(DOCUMENT) | parts


def cells(table):
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def panels(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def places(marks):
    return sorted(map(tuple, marks.get_offsets().tolist()))


def legend(figure):
    return [text.get_text() for drawn in figure.legends for text in drawn.get_texts()]


@pytest.mark.parametrize("count", [1, 4])
def test_a_figure_is_a_png_that_stays_the_same(count, tmp_path):
    document = changed(proxies=[DOCUMENT["proxies"][index % 2] for index in range(count)])
    path = save_figure(draw_ranking(document), tmp_path / "ranking.png")
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert save_figure(draw_ranking(document), tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_a_panel_a_proxy_with_names_and_units():
    figure = draw_ranking(DOCUMENT)
    left, right = panels(figure)
    words = DOCUMENT["proxies"][0]["agreement"]
    assert left.get_title(loc="left").split("\n") == [
        "distilled",
        f"Spearman {words['spearman']:.2f}, Kendall {words['kendall']:.2f}",
    ]
    assert right.get_title(loc="left").startswith("random\n")
    assert left.get_xlabel().replace("\n", " ") == "accuracy (%), trained on 100 images, 200 epochs"
    assert left.get_ylabel().replace("\n", " ") == "accuracy (%), trained on all images, 60 epochs"
    assert figure.get_suptitle().startswith("digits, convnet720")


def test_marks_lie_at_both_accuracies_in_per_cent():
    left, right = panels(draw_ranking(DOCUMENT))
    filled, hollow, rings = left.collections
    assert places(filled) == [(60.0, 75.0), (80.0, 95.0), (85.0, 90.0)]
    assert places(hollow) == [(20.0, 25.0), (30.0, 50.0)]
    assert (len(filled.get_facecolor()), len(hollow.get_facecolor()), len(rings.get_facecolor())) == (1, 0, 0)
    assert places(rings) == [(80.0, 95.0), (85.0, 90.0)]
    everything, rings = right.collections
    assert len(everything.get_offsets()) == 5
    assert places(rings) == [(40.0, 90.0), (50.0, 75.0)]


def test_the_legend_names_what_is_drawn():
    assert legend(draw_ranking(DOCUMENT)) == [
        "an architecture",
        "stopped early, its last accuracy",
        "the best 2 by the proxy set",
    ]
    plain = changed(proxies=[proxy("random", RANDOM, tops=(10,))])
    figure = draw_ranking(plain)
    assert legend(figure) == ["an architecture"]
    assert len(panels(figure)[0].collections) == 1


def test_groups_have_their_colours():
    groups = {"w32": "batch", "w64": "batch", "w128": "layer", "w256": "layer"}
    figure = draw_ranking(DOCUMENT, groups)
    right = panels(figure)[1]
    found = {tuple(marks.get_edgecolor()[0][:3]): len(marks.get_offsets()) for marks in right.collections[:-1]}
    assert found == {to_rgba(COLOURS[index])[:3]: count for index, count in enumerate((1, 2, 2))}
    assert legend(figure)[:3] == ["an architecture", "batch", "layer"]


def test_no_text_leaves_the_figure_or_lies_on_another():
    document = changed(proxies=[proxy(f"a set with a rather long name, {i}" * 2, RANDOM) for i in range(4)])
    figure = draw_ranking(document, {name: f"group of {name}" for name in REAL})
    FigureCanvasAgg(figure).draw()
    drawn = [figure._suptitle, *figure.legends]
    for axes in panels(figure):
        drawn += [axes._left_title, axes.xaxis.label, *([axes.yaxis.label] if axes.get_ylabel() else [])]
    boxes = [part.get_window_extent() for part in drawn]
    width, height = figure.bbox.width, figure.bbox.height
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_the_table_says_how_rankings_agree():
    table = ranking_table(DOCUMENT)
    found = cells(table)
    agreed = [each["agreement"] for each in DOCUMENT["proxies"]]
    assert found["proxy"] == ["distilled", "random", "real data"]
    ends = [(each["spearman_low"], each["spearman_high"]) for each in agreed]
    rho = [f"{each['spearman']:.2f}\n{low:.2f} to {high:.2f}" for each, (low, high) in zip(agreed, ends, strict=True)]
    assert found["rho"] == [*rho, "-"]
    assert found["tau"] == [f"{each['kendall']:.2f}" for each in agreed] + ["-"]
    # The distilled set's best two are the real best two, the other way round; of random images' one of two.
    assert found["top 2"] == ["-1.00, 2", "-1.00, 1", "-"]
    assert found["top 10"] == ["-", "-", "-"]
    assert found["accuracy"] == ["95.0", "90.0", "95.0"]
    assert found["time"] == ["2 min 5 s", "-", "2 h 2 min"]
    assert "5 architectures" in str(table.title)


def test_the_table_of_a_sample_that_is_too_small_for_anything():
    real = {"w32": 0.5}
    little = changed(real=real, proxies=[proxy("one", {"w32": 0.25}, tops=(), real=real)])
    little.pop("real_seconds")
    found = cells(ranking_table(little))
    assert found["rho"] == ["-", "-"]
    assert found["accuracy"] == ["-", "50.0"]
    assert found["time"] == ["-", "-"]
    assert panels(draw_ranking(little))[0].get_title(loc="left").endswith("Spearman -, Kendall -")


def test_the_table_of_long_names_is_readable_on_a_narrow_screen():
    names = [str(row) for row in SPACES["nasbench201"][::500]]
    real = {name: index / 40 for index, name in enumerate(names)}
    reverse = {name: 0.9 - value for name, value in real.items()}
    rows = [
        proxy("mtt, 1 a class", real, tops=(5, 10, 20), real=real, seconds=125.0),
        proxy("random, 1 a class", reverse, tops=(5, 10, 20), real=real, seconds=7300.0),
    ]
    screen = Console(file=io.StringIO(), width=100)
    screen.print(ranking_table(changed(space="nasbench201", real=real, proxies=rows)))
    drawn = screen.file.getvalue().splitlines()
    body = [[cell.strip() for cell in line.strip("│").split("│")] for line in drawn if "│" in line][1:]
    assert max(map(len, drawn)) <= 100
    first, interval = body[0], body[1]
    assert first == ["mtt, 1 a class", "1.00", "1.00", "1.00, 5", "1.00, 10", "1.00, 20", "77.5", "2 min 5 s"]
    assert interval[2] == "1.00 to 1.00"
    assert [line[-1] for line in body if line[-1]] == ["2 min 5 s", "2 h 2 min", "2 h 2 min"]
    assert len(body) == 5  # two lines a proxy, one for real data


def test_the_csv_has_deviations_where_there_are_several_seeds():
    row = {"seconds_of": dict.fromkeys(REAL, 1.0), "stopped_after": {"deep": 3}}
    values = {name: [score - 0.02, score + 0.02] for name, score in RANDOM.items()}
    own = proxy("random", RANDOM) | row | {"ranking": sorted(RANDOM, key=RANDOM.get), "values": values}
    document = changed(proxies=[own], real_values={"w32": [0.5]}, real_seconds_of={"w32": 2.0})
    lines = list(csv.DictReader(io.StringIO(ranking_csv(document))))
    assert [line["architecture"] for line in lines] == ["deep", "w32", "w256", "w128", "w64"]
    assert [float(line["random: std"]) for line in lines] == pytest.approx([0.02 * 2**0.5] * 5)
    assert "real std" not in lines[0]
    assert [int(line["real rank"]) for line in lines] == [5, 4, 1, 2, 3]
    one = ranking_csv(document | {"proxies": [own | {"values": {name: [score] for name, score in RANDOM.items()}}]})
    assert "std" not in one.splitlines()[0]
