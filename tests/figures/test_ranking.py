"""The scatter of two rankings and its table: the places and marks of a document, with names and units."""

import copy
import csv
import io

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from PIL import Image
from rich.console import Console

from raydd.evaluation.rank_agreement import agreement
from raydd.figures.cells import rows_table
from raydd.figures.ranking import agreement_rows, agreement_title, draw_ranking, ranking_csv
from raydd.figures.style import COLOURS, save_figure

REAL = {"w32": 0.5, "w64": 0.75, "w128": 0.9, "w256": 0.95, "deep": 0.25}
DISTILLED = {"w32": 0.3, "w64": 0.6, "w128": 0.85, "w256": 0.8, "deep": 0.2, "not trained on real data": 0.9}
RANDOM = {"w32": 0.2, "w64": 0.5, "w128": 0.4, "w256": 0.3, "deep": 0.1}


def proxy(name, scores, stopped=(), tops=(2, 10), **extra):
    ranks = {arch: (int(arch not in stopped), value) for arch, value in scores.items()}
    agreed = agreement(ranks, extra.pop("real", REAL), tops)
    times = {"seconds": 12.0 * len(scores), "seconds_mean": 12.0}
    return {"name": name, "scores": scores, "stopped": list(stopped), "agreement": agreed} | times | extra


DOCUMENT = {
    "space": "convnet720",
    "dataset": "digits",
    "proxy_label": "on 100 images, 200 epochs",
    "real_label": "on all images, 60 epochs",
    "real": REAL,
    "real_seconds": 7300.0,
    "proxies": [
        proxy("distilled", DISTILLED, ["deep", "w32"], seconds=125.0, seconds_mean=25.0),
        proxy("random", RANDOM),
    ],
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
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
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


def test_the_rows_say_how_rankings_agree():
    agreed = [each["agreement"] for each in DOCUMENT["proxies"]]
    rows = [{title: getattr(cell, "text", cell) for title, cell in row.items()} for row in agreement_rows(DOCUMENT)]
    assert [row["proxy"] for row in rows] == ["distilled", "random"]
    for row, own in zip(rows, agreed, strict=True):
        assert row["Spearman, all"] == f"{own['spearman']:.2f}"
        assert row["95 % interval"] == f"{own['spearman_low']:.2f} to {own['spearman_high']:.2f}"
        assert row["Kendall tau-b"] == f"{own['kendall']:.2f}"
    # The distilled set's best two are the real best two, the other way round; of random images' one of two.
    assert [(row["Spearman, top 2"], row["overlap, top 2"]) for row in rows] == [
        ("-1.00", "2 of 2"),
        ("-1.00", "1 of 2"),
    ]
    assert [row["regret, top 2"] for row in rows] == ["0.0", "5.0"]
    assert [row["overlap, top 10"] for row in rows] == ["-", "-"]
    assert [(row["time"], row["s a training"]) for row in rows] == [("2 min 5 s", "25.00"), ("1 min 0 s", "12.00")]


def test_a_sample_that_is_too_small_for_anything_has_dashes():
    real = {"w32": 0.5}
    little = changed(real=real, proxies=[proxy("one", {"w32": 0.25}, tops=(), real=real)])
    (row,) = agreement_rows(little)
    assert (row["Spearman, all"].text, row["95 % interval"], row["p"].text) == ("-", "-", "-")
    assert panels(draw_ranking(little))[0].get_title(loc="left").endswith("Spearman -, Kendall -")


def test_the_table_of_a_narrow_screen_has_a_column_a_proxy():
    rows = agreement_rows(
        changed(proxies=[DOCUMENT["proxies"][index % 2] | {"name": f"set {index}"} for index in range(5)])
    )
    screen = Console(file=io.StringIO(), width=80)
    screen.print(rows_table(agreement_title(DOCUMENT), rows, upright=True))
    lines = screen.file.getvalue().splitlines()
    heads = [[cell.strip() for cell in line.split("│")] for line in lines if line.startswith("proxy")]
    assert [name for head in heads for name in head[1:]] == [f"set {index}" for index in range(5)]
    assert max(map(len, lines)) <= 80
    assert "trained on 100 images, 200 epochs" in " ".join(" ".join(lines).split())


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
