"""Figures inside a page: every value where its scale has it, no spike lost, themed colours, equal bytes."""

import math
import re
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from raydd.figures.bars import Series, draw_bars
from raydd.figures.curves import Curve, draw_curves
from raydd.figures.style import add_tooltips, label, new_figure
from raydd.figures.svg import inline_svg, number


class Chart:
    """A chart's parts; it must be whole XML."""

    def __init__(self, figure):
        self.html = inline_svg(figure)
        self.svg = ElementTree.fromstring(self.html)

    def all(self, kind):
        return [one for one in self.svg.iter() if kind in one.get("class", "").split()]

    def paths(self, kind="curve"):
        """Of each curve or band its pieces, lists of places."""
        return [pieces(group.find("path").get("d")) for group in self.all(kind)]

    @property
    def places(self):
        """Functions from values to places across and up."""
        (panel,) = (one for one in self.svg.iter() if one.get("data-axes"))
        low, high, start, end, bottom, top, floor, ceiling, log = map(float, panel.get("data-axes").split())

        def up(value):
            ends = (math.log(each) if log else each for each in (bottom, top, value))
            bottom_, top_, value_ = ends
            return floor + (value_ - bottom_) / (top_ - bottom_) * (ceiling - floor)

        return lambda value: start + (value - low) / (high - low) * (end - start), up

    @property
    def texts(self):
        return ["".join(text.itertext()) for text in self.svg.iter("text")]

    @property
    def titles(self):
        return [one.text for one in self.svg.iter("title")]


def pieces(path):
    words = re.sub(r"[Zz]", "", path).split("M")
    return [[tuple(map(float, pair.split())) for pair in word.split("L")] for word in words if word.strip()]


def curves(*values, **options):
    return draw_curves([Curve("a", range(len(each)), each) for each in values], "step", "loss", "Loss", **options)


@pytest.mark.parametrize("log", [False, True])
def test_points_lie_where_the_scales_have_them(log):
    x, y = [0.0, 10.0, 40.0], [1.0, 100.0, 3.0]
    chart = Chart(draw_curves([Curve("a", x, y)], "step", "loss", "Loss", log=log))
    across, up = chart.places
    (((*drawn,),),) = chart.paths()
    assert len(drawn) == 3
    for (left, top), at, value in zip(drawn, x, y, strict=True):
        assert left == pytest.approx(across(at), abs=0.1)
        assert top == pytest.approx(up(value), abs=0.1)
    assert up(100.0) < up(3.0) < up(1.0)  # up is up
    assert {"step", "loss", "Loss", "a"} <= set(chart.texts)


def test_a_chart_is_described_in_words():
    chart = Chart(draw_curves([Curve("a <b>", [0, 1], [0.5, 0.25])], "step", "loss", "Loss & co"))
    assert chart.svg.get("role") == "img"
    assert chart.svg[0].text == "Loss & co"
    assert chart.svg[1].tag == "desc"
    assert "a <b>: 0.5 at step 0, 0.25 at 1; least 0.25, most 0.5." in chart.svg[1].text
    assert "width" not in chart.svg.attrib
    assert "a <b>" in chart.titles


@pytest.mark.parametrize("hole", [None, math.nan, math.inf])
def test_what_is_not_a_number_leaves_a_gap(hole):
    ((first, second),) = Chart(curves([1.0, 2.0, hole, 4.0, 5.0])).paths()
    assert (len(first), len(second)) == (2, 2)


def test_zero_leaves_a_gap_on_a_logarithmic_scale():
    chart = Chart(curves([1.0, 2.0, 0.0, -4.0, 5.0], log=True))
    assert [len(piece) for piece in chart.paths()[0] if len(piece) > 1] == [2]
    (group,) = chart.all("curve")
    assert len(list(group.iter("use"))) == 3  # the last stands alone, as a marker


def test_a_long_series_keeps_its_spikes_its_ends_and_its_gaps():
    values = [math.sin(index / 900) for index in range(100_000)]
    values[54_321], values[54_322], values[80_000] = 9.0, -9.0, None
    chart = Chart(curves(values))
    (across, up), (drawn,) = chart.places, chart.paths()
    tops = [top for piece in drawn for _, top in piece]
    assert (min(tops), max(tops)) == (pytest.approx(up(9.0), abs=0.1), pytest.approx(up(-9.0), abs=0.1))
    assert drawn[0][0][0] == pytest.approx(across(0), abs=0.1)
    assert drawn[-1][-1][0] == pytest.approx(across(99_999), abs=0.1)
    assert len(drawn) == 2
    assert len(chart.html) < 60_000


def test_a_band_reaches_from_low_to_high():
    curve = Curve("a", [0, 1, 2, 3], [2.0, 3.0, 4.0, 4.0], [1.0, None, 3.5, 3.5], [3.0, None, 8.0, 8.0])
    chart = Chart(draw_curves([curve], "x", "y", "t"))
    up = chart.places[1]
    (group,) = chart.all("band")
    areas = [[top for piece in pieces(one.get("d")) for _, top in piece] for one in group.iter("path")]
    assert len(areas) == 2
    assert (min(areas[0]), max(areas[0])) == (pytest.approx(up(3.0), abs=0.1), pytest.approx(up(1.0), abs=0.1))
    assert (min(areas[1]), max(areas[1])) == (pytest.approx(up(8.0), abs=0.1), pytest.approx(up(3.5), abs=0.1))


def test_curves_are_told_apart_without_colour_and_the_eighth_does_not_look_like_the_first():
    named = [Curve(f"c{index}", [0, 1], [index, index]) for index in range(14)]
    chart = Chart(draw_curves([*named, Curve("", [0, 1], [3, 4])], "x", "y", "t"))
    markers = {mark.get("id"): mark.get("d") for mark in chart.svg.iter("path") if mark.get("id")}
    styles = []
    for group in chart.all("curve"):
        mark = next(group.iter("use"))
        styles.append((markers[mark.get("href").removeprefix("#")], group.find("path").get("style")))
    assert len({shape for shape, _ in styles[:7]}) == 7
    assert len({style for _, style in styles[:7]}) == 7
    assert len(set(styles)) == 14
    assert len(chart.all("thin")) == 1
    assert [text for text in chart.texts if text.startswith("c")] == [f"c{index}" for index in range(14)]


def test_whole_numbers_have_whole_ticks_and_a_scale_may_reach_to_zero():
    figure = curves([784.0, 785.0, 786.0], zero=True)
    chart = Chart(figure)
    assert figure.axes[0].get_ylim()[0] == 0
    assert {"0", "1", "2"} <= set(chart.texts)
    assert not {"0.5", "1.5"} & set(chart.texts)


@pytest.mark.parametrize("names", [["one <1>"], ["one <1>", "two & 2", 'href="#x" url(#y) id="z"']])
def test_points_have_their_names_as_tooltips(names):
    figure = new_figure(4, 3)
    axes = figure.add_subplot()
    add_tooltips(axes.scatter(range(len(names)), range(len(names)), label="group"), names)
    label(axes, "x", "y", "t")
    chart = Chart(figure)
    assert chart.titles == ["t", *names]
    assert f"group: {len(names)} points." in chart.svg[1].text
    assert "<a" not in chart.html


def test_bars_start_at_zero_and_have_their_errors():
    series = [Series("g", [80.0, None], ["80 ± 2", ""], [2.0, None]), Series("h", [None, 40.0], ["", "40"])]
    chart = Chart(draw_bars(["first", "second"], series, "accuracy (%)", "t"))
    assert "first: 80; second: 40;" in chart.svg[1].text
    assert {"first", "second", "80 ± 2", "40", "g", "h"} <= set(chart.texts)
    bars = {}
    for path in chart.svg.iter("path"):
        for line in (0, 2):
            if f"fill: var(--line-{line // 2})" in path.get("style", "") and path.get("clip-path"):
                (places,) = pieces(path.get("d"))
                bars[line] = (min(left for left, _ in places), max(left for left, _ in places))
    assert bars[0][0] == bars[2][0]
    assert bars[0][1] - bars[0][0] == pytest.approx(2 * (bars[2][1] - bars[2][0]), abs=0.2)


@pytest.mark.parametrize("values", [[], [None, math.nan], [0, -1]])
def test_nothing_is_drawn_where_there_is_nothing(values):
    chart = Chart(curves(values, log=values == [0, -1]))
    assert "a: no value." in chart.svg[1].text or values == [0, -1]
    assert values == [0, -1] or "no value is recorded" in chart.texts


def test_equal_figures_give_equal_bytes_whose_ids_are_their_own():
    one, again, other = (inline_svg(curves([1.0, value, 3.0])) for value in (2.0, 2.0, 2.5))
    assert one == again
    ids = [set(re.findall(r' id="([^"]+)"', html)) for html in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert {name for pair in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', one) for name in pair if name} == ids[0]
    assert not re.search(r"20[0-9][0-9]-|metadata|matplotlib|http|<style", one)


def test_every_colour_follows_the_theme():
    figure = curves([1.0, 2.0])
    figure.axes[0].axhline(1, color="#123456")
    html = inline_svg(figure)
    assert "light-dark(#123456, #" in html
    rest = re.sub(r"light-dark\(#[0-9a-f]{6}, #[0-9a-f]{6}\)", "", html)
    assert re.findall(r"#[0-9a-f]{6}\b(?!-)", re.sub(r"figure-[0-9a-f]+", "", rest)) == []
    assert "font-family" not in html


@pytest.mark.parametrize("name", ["a $\\foo$ b", "$x$", "\x1b[31m red", "\u732b \u202e", "\u0e41\u0e21\u0e27"])
def test_any_text_is_drawn_as_it_is_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = Chart(draw_curves([Curve(name, [0, 1], [1, 2])], name, name, name))
    written = name.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert sum(text == written for text in chart.texts) == 4


def test_numbers_have_four_digits():
    assert [number(value) for value in (87.1429, 1293, 0.00012, -3.0, np.float64(123456.7))] == [
        "87.14",
        "1293",
        "0.00012",
        "-3",
        "123457",
    ]
