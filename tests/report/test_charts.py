"""Charts: every value where its scale has it, gaps where there is none, no spike lost."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from raydd.report.axes import MOST_POINTS, Axis, axis, buckets, thin
from raydd.report.charts import Bar, Curve, Point, bars, lines, scatter

NAN = float("nan")


class Chart:
    """A chart's parts; it must be whole XML."""

    def __init__(self, html):
        self.figure = ElementTree.fromstring(html)
        (self.svg,) = (child for child in self.figure if child.tag == "svg")

    def all(self, tag, kind):
        return [one for one in self.svg.iter(tag) if kind in one.get("class", "").split()]

    def paths(self, kind="line"):
        """Of each path its pieces, lists of places."""
        return [pieces(path.get("d")) for path in self.all("path", kind)]

    @property
    def axes(self):
        numbers = [float(word) for word in self.svg.get("data-axes").split()]
        low, high, start, end, bottom, top, floor, ceiling, log = numbers
        return Axis(low, high, start, end), Axis(bottom, top, floor, ceiling, bool(log))

    @property
    def legend(self):
        return ["".join(item.itertext()) for item in self.figure.iter("li")]

    @property
    def titles(self):
        return [one.text for one in self.svg.iter("title")]


def pieces(path):
    return [
        [tuple(map(float, pair.split())) for pair in piece.rstrip("Z").split("L")]
        for piece in path.split("M")
        if piece.strip("Z")
    ]


@pytest.mark.parametrize("log", [False, True])
def test_points_lie_where_the_scales_have_them(log):
    x, y = [0.0, 10.0, 40.0], [1.0, 100.0, 3.0]
    chart = Chart(lines([Curve("a", x, y)], x="step", y="loss", title="Loss", log_y=log))
    across, up = chart.axes
    assert up.log is log
    ((drawn,),) = chart.paths()
    for (left, top), at, value in zip(drawn, x, y, strict=True):
        assert left == pytest.approx(across.at(at), abs=0.1)
        assert top == pytest.approx(up.at(value), abs=0.1)
    assert up.at(100.0) < up.at(3.0) < up.at(1.0)  # up is up
    texts = ["".join(text.itertext()) for text in chart.svg.iter("text")]
    assert {"step", "loss"} <= set(texts)


def test_a_chart_is_described_in_words():
    chart = Chart(lines([Curve("a <b>", [0, 1], [0.5, 0.25])], x="step", y="loss", title="Loss & co"))
    assert chart.svg.get("role") == "img"
    assert chart.svg[0].text == "Loss & co"
    assert chart.svg[1].tag == "desc"
    assert "0.25" in chart.svg[1].text
    assert "a <b>" in chart.svg[1].text
    assert "width" not in chart.svg.attrib


@pytest.mark.parametrize("hole", [None, NAN, math.inf])
def test_what_is_not_a_number_leaves_a_gap(hole):
    chart = Chart(lines([Curve("a", range(5), [1.0, 2.0, hole, 4.0, 5.0])], x="x", y="y", title="t"))
    ((first, second),) = chart.paths()
    assert (len(first), len(second)) == (2, 2)


def test_zero_leaves_a_gap_on_a_logarithmic_scale():
    chart = Chart(lines([Curve("a", range(5), [1.0, 2.0, 0.0, -4.0, 5.0])], x="x", y="y", title="t", log_y=True))
    ((only,),) = chart.paths()
    assert len(only) == 2
    assert len(chart.all("circle", "mark")) == 3  # the last stands alone, as a point


def test_a_long_series_keeps_its_spikes_and_its_ends():
    values = [math.sin(index / 900) for index in range(100_000)]
    values[54_321], values[54_322] = 9.0, -9.0
    kept = thin(values)
    assert len(kept) <= MOST_POINTS
    assert {0, 99_999, 54_321, 54_322} <= set(kept)
    assert kept == sorted(kept)
    chart = Chart(lines([Curve("a", range(100_000), values)], x="x", y="y", title="t"))
    ((drawn,),) = chart.paths()
    assert len(drawn) == len(kept)


def test_a_short_series_is_drawn_whole():
    assert thin([1.0, 1.0, 2.0]) == [0, 1, 2]
    assert thin([]) == []
    assert sum(len(bucket) for bucket in buckets(12_345)) == 12_345


def test_a_gap_in_a_long_series_stays():
    values = [1.0] * 5000
    values[2500] = None
    chart = Chart(lines([Curve("a", range(5000), values)], x="x", y="y", title="t"))
    (drawn,) = chart.paths()
    assert len(drawn) == 2


def test_a_band_reaches_from_low_to_high():
    curve = Curve("a", [0, 1, 2], [2.0, 3.0, 4.0], [1.0, None, 3.5], [3.0, None, 8.0])
    chart = Chart(lines([curve], x="x", y="y", title="t"))
    across, up = chart.axes
    (areas,) = chart.paths("band")
    assert areas[0] == [
        (pytest.approx(across.at(0), abs=0.1), pytest.approx(up.at(end), abs=0.1)) for end in (3.0, 1.0)
    ]
    assert areas[1][0][1] == pytest.approx(up.at(8.0), abs=0.1)
    assert up.high > 8


def test_a_band_of_a_long_series_holds_every_value():
    low = [0.0] * 5000
    low[1234] = -7.0
    curve = Curve("a", range(5000), [0.5] * 5000, low, [1.0] * 5000)
    chart = Chart(lines([curve], x="x", y="y", title="t"))
    ((area,),) = chart.paths("band")
    assert max(top for _, top in area) == pytest.approx(chart.axes[1].at(-7.0), abs=0.1)
    assert len(area) <= 2 * MOST_POINTS


def test_curves_are_told_apart_without_colour_too():
    curves = [Curve(f"c{index}", [0, 1], [index, index]) for index in range(7)]
    chart = Chart(lines([*curves, Curve("", [0, 1], [3, 4])], x="x", y="y", title="t"))
    looks = [(path.get("class"), path.get("stroke-dasharray")) for path in chart.all("path", "line")]
    assert len({dashes for _, dashes in looks[:7]}) == 7
    assert len({kind for kind, _ in looks[:7]}) == 7
    assert "thin" in looks[7][0]
    assert chart.legend == [f"c{index}" for index in range(7)]


def test_the_eighth_curve_does_not_look_like_the_first():
    curves = [Curve(f"c{index}", [0, 1], [index, index]) for index in range(14)]
    chart = Chart(lines(curves, x="x", y="y", title="t"))
    assert len({(path.get("class"), path.get("stroke-dasharray")) for path in chart.all("path", "line")}) == 14


def test_one_curve_needs_no_legend():
    assert Chart(lines([Curve("a", [0, 1], [1, 2])], x="x", y="y", title="t")).legend == []


def test_whole_numbers_have_whole_ticks_and_a_scale_may_reach_to_zero():
    chart = Chart(lines([Curve("a", [0, 1, 2], [784.0, 785.0, 786.0])], x="epoch", y="y", title="t", zero=True))
    assert chart.axes[1].low == 0
    floor = {text.text for text in chart.all("text", "tick") if text.get("text-anchor") == "middle"}
    assert floor == {"0", "1", "2"}


def test_points_of_groups_differ_in_shape():
    points = [
        Point(1, 2, "one", "g"),
        Point(3, 4, "two <2>", "h"),
        Point(NAN, 1, "lost", "g"),
        Point(2, 2, "three", "g"),
    ]
    chart = Chart(scatter(points, x="proxy", y="real", title="t", diagonal=True))
    marks = [path for path in chart.all("path", "point")]
    assert len(marks) == 3
    shapes = [re.sub(r"M[\d. ]+", "", mark.get("d")) for mark in marks]
    assert shapes[0] == shapes[2] != shapes[1]
    assert chart.titles == ["t", "one", "two <2>", "three"]
    assert chart.legend == ["g", "h"]
    (even,) = chart.all("line", "even")
    assert float(even.get("x1")) < float(even.get("x2"))


def test_points_without_common_values_have_no_diagonal():
    chart = Chart(scatter([Point(100, 1, "a"), Point(200, 2, "b")], x="x", y="y", title="t", diagonal=True))
    assert chart.all("line", "even") == []


def test_bars_start_at_zero_and_have_their_errors():
    values = [Bar("first", 80.0, 78.0, 83.0, "g"), Bar("second", 40.0), Bar("lost", NAN)]
    chart = Chart(bars(values, x="accuracy (%)", title="t"))
    first, second = chart.all("rect", "bar")
    assert first.get("x") == second.get("x")
    assert float(first.get("width")) == pytest.approx(2 * float(second.get("width")), abs=0.2)
    (error,) = chart.all("path", "error")
    low, high = (float(number) for number in re.match(r"M([\d.]+) \S+H([\d.]+)", error.get("d")).groups())
    scale = float(first.get("width")) / 80
    assert high - low == pytest.approx(5 * scale, abs=0.2)
    assert chart.titles == ["t", "first (g): 80, from 78 to 83", "second: 40"]


def test_bars_below_zero_go_to_the_left():
    chart = Chart(bars([Bar("a", -2.0), Bar("b", 2.0)], x="x", title="t"))
    first, second = (float(bar.get("x")) for bar in chart.all("rect", "bar"))
    assert first < second


@pytest.mark.parametrize(
    "html",
    [
        lines([], x="x", y="y", title="t"),
        lines([Curve("a", [0, 1], [None, NAN])], x="x", y="y", title="t"),
        lines([Curve("a", [0, 1], [0, -1])], x="x", y="y", title="t", log_y=True),
        scatter([], x="x", y="y", title="t"),
        bars([Bar("a", NAN)], x="x", title="t"),
    ],
)
def test_nothing_is_said_where_there_is_nothing(html):
    chart = Chart(html)
    assert "no value is recorded" in "".join(chart.svg.itertext())


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0], [-3.0, -3.0], [1e-9, 2e-9], [1e6, 5e6]])
@pytest.mark.parametrize("log", [False, True])
def test_every_scale_has_room_and_ticks(values, log):
    if log and min(values) <= 0:
        values = [abs(value) + 1 for value in values]
    scale = axis(values, 200, 20, log=log)
    assert scale.low < min(values)
    assert max(values) < scale.high
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 12
    room = 1e-6 * (scale.high - scale.low)
    assert all(scale.low - room <= value <= scale.high + room for value, _ in ticks)
    assert len({shown for _, shown in ticks}) == len(ticks)


@pytest.mark.parametrize(("low", "high"), [(0.02, 40.0), (1e-6, 1e3), (0.5, 8.0)])
def test_a_logarithmic_scale_has_several_ticks(low, high):
    ticks = axis([low, high], 0, 1, log=True).ticks()
    assert len(ticks) >= 2
    assert len(ticks) <= 9
