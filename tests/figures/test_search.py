"""What the figures of a search draw: the trials they are given, on axes of the right scale, with names and units."""

import io

import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from raydd.figures.search import STATES, draw_history, draw_importance, draw_pareto, shorten
from raydd.figures.style import save_figure
from raydd.figures.sweep import draw_values

SCALES = {"window.low": "linear", "lr.images": "log", "mode": "choice", "lr.labels": "log"}


def row(trial, accuracy, state="complete", seconds=None, **settings):
    names = {"low": "window.low", "images": "lr.images", "labels": "lr.labels", "mode": "mode"}
    found = {"trial": trial, "state": state, "accuracy": accuracy, "seconds": seconds, "step": 10, "error": ""}
    return found | {f"settings.{name}": settings.get(short) for short, name in names.items()}


ROWS = [
    row(0, 0.5, seconds=1.0, low=0, images=1.0, mode="soft", labels=0.1),
    row(1, 0.25, "pruned", 2.0, low=10, images=100.0, mode="hard"),
    row(2, None, "failed", low=5, images=30.0, mode="hard"),
    row(3, 0.75, seconds=40.0, low=5, images=10.0, mode="soft", labels=10.0),
    row(4, 0.25, seconds=3.0, low=5, images=10.0, mode="hard"),
    row(5, 0.6, "unfinished", low=2, images=2.0, mode="soft", labels=1.0),
]
SHARES = {"window.low": 0.125, "lr.images": 0.625, "mode": 0.25, "lr.labels": 0.0}
FIGURES = [
    lambda rows: draw_history(rows, "space"),
    lambda rows: draw_importance(SHARES, len(rows), "space"),
    lambda rows: draw_values(rows, SCALES, "space"),
    lambda rows: draw_pareto(rows, [0], "seconds", "space"),
]


def lines(axes):
    return [[list(line.get_xdata()), list(line.get_ydata())] for line in axes.get_lines() if len(line.get_xdata())]


def dots(axes):
    """Places of the marks by colour."""
    marks = [each for each in axes.collections if len(each.get_offsets()) and len(each.get_facecolor())]
    return {tuple(each.get_facecolor()[0][:3]): each.get_offsets().tolist() for each in marks}


def colour(state):
    return to_rgba(STATES[state]["color"])[:3]


def words(axes):
    return [text.get_text() for text in axes.texts]


def x_words(axes):
    return [text.get_text() for text in axes.get_xticklabels()]


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["many", "one"])
def test_a_figure_is_a_png_with_a_name(draw, rows, tmp_path):
    figure = draw(rows)
    path = save_figure(figure, tmp_path / "figure.png")
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
    titles = [axes.get_title(loc="left") for axes in figure.axes] + [figure.get_suptitle()]
    assert any(title.startswith("space: ") for title in titles)


def test_equal_rows_give_equal_bytes(tmp_path):
    first, second = (save_figure(draw_values(ROWS, SCALES, "space"), tmp_path / name) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_history_has_a_mark_a_trial_and_the_best_complete_one_so_far():
    (axes,) = draw_history(ROWS, "space").axes
    assert dots(axes) == {
        colour("complete"): [[0, 50], [3, 75], [4, 25]],
        colour("pruned"): [[1, 25]],
        colour("unfinished"): [[5, 60]],
    }
    edge, best = lines(axes)
    assert edge[0] == [2]
    assert 0 < edge[1][0] < 0.05, "a share of the height, not an accuracy"
    assert best == [[0, 3, 4], [50, 75, 75]]
    assert axes.get_lines()[-1].get_drawstyle() == "steps-post"
    assert axes.get_title(loc="left") == "space: best 75.0 %, by trial 3"
    found = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert found == ["complete: 3", "stopped early: 1", "unfinished: 1", "failed: 1", "best so far"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "validation accuracy (%)")


def test_history_of_trials_that_were_all_stopped():
    rows = [row(0, 0.5, "pruned"), row(1, 0.9, "failed"), row(2, 0.75, "pruned")]
    (axes,) = draw_history(rows, "space").axes
    assert lines(axes) == [[[0, 2], [50, 75]]]
    (axes,) = draw_history([row(0, None, "failed")], "space").axes
    assert axes.get_title(loc="left") == "space: no accuracy yet"
    assert lines(axes)[0][0] == [0]
    assert list(axes.get_xticks()) == [0]


def test_bars_of_importance_are_in_order():
    (axes,) = draw_importance(SHARES, 6, "space").axes
    assert [bar.get_width() for bar in axes.patches] == [62.5, 25, 12.5, 0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["lr.images", "mode", "window.low", "lr.labels"]
    assert words(axes) == ["62 %", "25 %", "12 %", "0 %"]
    assert axes.yaxis_inverted()
    assert "6 trials" in axes.get_title(loc="left")


def test_values_have_a_panel_a_setting_on_its_scale():
    figure = draw_values(ROWS, SCALES | {"never.searched": "log"}, "space")
    low, images, mode, labels = (axes for axes in figure.axes if axes.get_visible())
    assert [axes.get_xlabel() for axes in (low, images, mode, labels)] == list(SCALES)
    assert [axes.get_xscale() for axes in (low, images, labels)] == ["linear", "log", "log"]
    assert dots(low)[colour("complete")] == [[0, 50], [5, 75], [5, 25]]
    assert dots(images)[colour("pruned")] == [[100, 25]]
    assert dots(labels) == {colour("complete"): [[0.1, 50], [10, 75]], colour("unfinished"): [[1, 60]]}
    assert x_words(mode) == ["hard", "soft"]
    assert dots(mode)[colour("complete")] == [[1, 50], [1, 75], [0, 25]]
    assert [5, 0.025] in [[line[0][0], line[1][0]] for line in lines(low)], "the failed trial, along the bottom"
    assert low.get_ylabel() == "validation accuracy (%)"


def test_values_that_complete_trials_share_have_mean_and_deviation():
    low, _, mode, _ = (axes for axes in draw_values(ROWS, SCALES, "space").axes if axes.get_visible())
    (bars,) = low.containers
    assert [list(bars[0].get_xdata()), list(bars[0].get_ydata())] == [[5], [50]]
    assert bars[2][0].get_segments()[0].tolist() == [[5, 25], [5, 75]]
    (bars,) = mode.containers
    assert bars[0].get_ydata().tolist() == [62.5]
    assert 1 < bars[0].get_xdata()[0] < 1.5, "beside the marks of its choice"
    (alone,) = draw_values([row(0, 0.5, low=1), row(1, 0.5, low=2)], {"window.low": "linear"}, "space").axes
    assert alone.containers == []


def test_a_sweep_of_one_setting_is_a_curve_over_ordered_numbers():
    rows = [row(n, 0.1 * n, mode=value) for n, value in enumerate(["10", "2", "1e-05", "null"])]
    (axes,) = draw_values(rows[:3], {"mode": "choice"}, "space").axes
    assert x_words(axes) == ["1e-05", "2", "10"]
    ((places, means),) = lines(axes)
    assert (places, pytest.approx([20, 10, 0])) == ([0, 1, 2], means)
    (axes,) = draw_values(rows, {"mode": "choice"}, "space").axes
    assert x_words(axes) == ["1e-05", "2", "10", "null"]
    assert lines(axes) == [], "no line to what is no number"


def test_means_of_a_grid_of_numbers_are_joined():
    rows = [row(n, 0.1 * (n % 4), low=n % 2, images=float(10 ** (n % 3))) for n in range(12)]
    panels = [axes for axes in draw_values(rows, {"window.low": "linear", "lr.images": "log"}, "space").axes]
    assert [[0, 1], pytest.approx([10, 20])] in lines(panels[0])
    assert [1, 10, 100] in [line[0] for line in lines(panels[1])]


def test_choices_of_long_lists_are_shortened_and_turned():
    lists = ["[0.1,0.2,0.3,0.4,0.5]", "[0.5,0.4,0.3,0.2,0.1]", "true"]
    rows = [row(n, 0.5, mode=value) for n, value in enumerate(lists)]
    (axes,) = draw_values(rows, {"mode": "choice"}, "space").axes
    assert x_words(axes) == [shorten(text, 16) for text in lists]
    assert {text.get_rotation() for text in axes.get_xticklabels()} == {25}


def test_truth_values_and_numbers_as_choices():
    rows = [row(0, 0.5, mode=True), row(1, 0.25, mode=False)]
    assert x_words(draw_values(rows, {"mode": "choice"}, "space").axes[0]) == ["false", "true"]
    rows = [row(n, 0.5, mode=value) for n, value in enumerate([0.1, 0.1 + 1e-9, 1000000.0])]
    assert x_words(draw_values(rows, {"mode": "choice"}, "space").axes[0]) == ["0.1", "0.100000001", "1000000"]


def test_the_front_is_joined_and_numbered():
    (axes,) = draw_pareto(ROWS, [3, 0], "seconds", "space").axes
    assert dots(axes) == {colour("complete"): [[1, 50], [40, 75], [3, 25]], colour("pruned"): [[2, 25]]}
    assert lines(axes) == [[[1, 40], [50, 75]]]
    assert words(axes) == ["0", "3"]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "seconds of outer steps"
    assert draw_pareto(ROWS[:2], [0], "seconds", "space").axes[0].get_xscale() == "linear"


def test_numbers_of_the_front_do_not_lie_on_one_another():
    rows = [row(n, 0.5 + 1e-5 * n, seconds=10 + 1e-3 * n) for n in range(5)] + [row(9, 0.9, seconds=50.0)]
    (axes,) = draw_pareto(rows, [0, 1, 2, 3, 4, 9], "seconds", "space").axes
    assert words(axes) == ["0", "9"]
    assert len(lines(axes)[0][0]) == 6


def test_whole_numbers_have_whole_ticks():
    rows = [row(n, 0.5, low=n) for n in range(3)]
    (axes,) = draw_values(rows, {"window.low": "linear"}, "space").axes
    assert all(place == round(place) for place in axes.get_xticks())


@pytest.mark.parametrize(
    ("values", "words"),
    [([1e-6, 4e-6], ["1e-06", "2e-06"]), ([6.0, 8.0], ["6", "8"]), ([1.0, 1e4], ["1", "10", "100", "1000", "10000"])],
)
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(values, words):
    (axes,) = draw_values([row(n, 0.5, images=value) for n, value in enumerate(values)], {"lr.images": "log"}, "s").axes
    axes.figure.draw_without_rendering()
    low, high = axes.get_xlim()
    inside = [text.get_text() for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
    assert set(words) <= {text.replace("\N{MINUS SIGN}", "-") for text in inside}
    assert len(inside) <= 10
