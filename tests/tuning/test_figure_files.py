"""Parallel coordinates of a search's rows, which Optuna draws: every scored trial, on the axes of its settings."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.collections import LineCollection

from raydd.figures.search import shorten
from raydd.figures.style import save_figure
from raydd.tuning.figure_files import MOST_AXES, draw_parallel

SCALES = {"window.low": "linear", "lr.images": "log", "mode": "choice", "lr.labels": "log"}


def row(number, accuracy, state="complete", **settings):
    names = {"low": "window.low", "images": "lr.images", "mode": "mode", "labels": "lr.labels"}
    found = {"trial": number, "state": state, "accuracy": accuracy}
    return found | {f"settings.{name}": settings.get(short) for short, name in names.items()}


ROWS = [
    row(0, 0.5, low=0, images=1.0, mode="soft", labels=0.1),
    row(1, 0.25, "pruned", low=10, images=100.0, mode="hard"),
    row(2, None, "failed", low=5, images=30.0, mode="hard"),
    row(3, 0.75, low=5, images=10.0, mode="soft", labels=10.0),
    row(4, 0.25, low=5, images=10.0, mode="hard"),
]


def lines(figure):
    (found,) = (each for each in figure.axes[0].collections if isinstance(each, LineCollection))
    return found


def ticks(figure):
    return {text.get_text() for axes in figure.axes for text in axes.get_yticklabels()}


def title(figure):
    return next(axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left"))


def test_parallel_coordinates_of_every_scored_trial():
    style = dict(matplotlib.rcParams)
    figure = draw_parallel(ROWS, SCALES, {}, "space")
    assert dict(matplotlib.rcParams) == style
    assert pyplot.get_fignums() == []
    places = [np.asarray(segment) for segment in lines(figure).get_segments()]
    assert sorted(place[0, 1] for place in places) == [25, 25, 50, 75]
    assert all(len(place) == 5 for place in places)  # accuracy and four settings, missing or not
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names[0] == "accuracy (%)"
    assert names[1:] == sorted(SCALES)
    best = next(place for place in places if place[0, 1] == 75)
    assert best[1 + names[1:].index("window.low"), 1] == pytest.approx(50)  # 5 of 0 to 10, on 25 to 75
    assert best[1 + names[1:].index("lr.images"), 1] == pytest.approx(50)  # 10 of 1 to 100, by decades
    assert {"hard", "soft"} <= ticks(figure)
    assert "1 without accuracy not drawn" in title(figure)


def test_the_thick_line_is_the_winner_not_a_trial_that_was_stopped():
    rows = [row(0, 0.5, low=1), row(1, 0.5, low=2), row(2, 0.9, "pruned", low=3)]
    drawn = lines(draw_parallel(rows, {"window.low": "linear"}, {}, "space"))
    assert list(drawn.get_linewidths()) == [1, 1, 3]
    assert [segment[0, 1] for segment in map(np.asarray, drawn.get_segments())] == [50, 90, 50]


def test_of_many_settings_the_weightiest_have_axes():
    keys = [f"experts.some_long_setting_{index}" for index in range(MOST_AXES + 3)]
    rows = [row(n, 0.1 * n) | {f"settings.{key}": float(n) for key in keys} for n in range(3)]
    figure = draw_parallel(rows, dict.fromkeys(keys, "linear"), {key: 1.0 for key in keys[3:]}, "space")
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names[1:] == sorted(shorten(key, 26) for key in keys[3:])
    assert "3 settings left out" in title(figure)


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["many", "one"])
def test_equal_rows_give_equal_bytes(rows, tmp_path):
    one, two = (save_figure(draw_parallel(rows, SCALES, {}, "space"), tmp_path / name) for name in "ab")
    assert one.read_bytes() == two.read_bytes()
