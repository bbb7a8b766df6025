import io
import json

import pytest
from rich.console import Console
from rich.text import Text

from raydd.io import console
from raydd.io.console import Pace, QuietScreen, Screen, clock, left


@pytest.fixture
def ticking(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.rows(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7300, "2 h 2 min"),
        (7199, "2 h 0 min"),
        (100 * 3600, "100 h 0 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert clock(seconds) == words
    assert left(seconds) == f"{words} left"


def test_an_unknown_time_left_is_not_told():
    assert left(None) == ""


def test_a_note_is_one_line_on_stderr_as_it_is(capsys):
    text = "a [bold]path[/bold] [/x] with :smile: and a very long tail " + "x" * 300
    Screen().note(text)
    Screen(as_json=True).note("b")
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{text}\nb\n")


def test_a_result_is_one_json_document_or_what_show_prints(capsys):
    document = {"scores": [1, 0.5, None], "path": "ü"}
    Screen(as_json=True).result(document, lambda out: pytest.fail("JSON was asked for"))
    out, err = capsys.readouterr()
    assert json.loads(out) == document
    assert (out.count("\n"), err) == (1, "")
    Screen().result(document, lambda out: out.print("shown"))
    assert capsys.readouterr() == ("shown\n", "")


def test_what_json_does_not_know_becomes_text(tmp_path, capsys):
    Screen(as_json=True).result({"path": tmp_path}, print)
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path)}


def test_progress_away_from_a_terminal_is_a_line_every_ten_seconds(capsys, ticking):
    with Screen().progress("experts", 40) as update:
        for second, done in ((0, 1), (5, 2), (9.9, 3), (10, 4), (15, 5), (19.9, 6), (20.1, 7.5)):
            ticking[0] = 100 + second
            update(done, f"loss {done}")
        ticking[0] = 200
        update(9, "")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["experts: 4 of 40 loss 4", "experts: 7.5 of 40 loss 7.5", "experts: 9 of 40"]


def test_progress_on_a_terminal_is_a_bar_that_goes_away(monkeypatch):
    screen, file = Screen(), io.StringIO()
    screen._err = Console(file=file, force_terminal=True, width=120)
    with screen.progress("experts", 40) as update:
        update(7, "5 s left")
        screen.note("a note")
    text = file.getvalue()
    assert "7/40" in text
    assert "5 s left" in text
    assert "a note\n" in text.replace("\r", "")
    assert "\x1b[2K" in text  # the bar's line is erased


def terminal(screen, **options):
    """Puts a screen on a terminal; returns what it is sent."""
    file = io.StringIO()
    options = {"force_terminal": True, "color_system": "truecolor", "width": 80, "height": 30} | options
    screen._err = Console(file=file, **options)
    return file


@pytest.mark.parametrize(
    ("options", "environment", "draws"),
    [
        ({}, {}, True),
        ({"color_system": "256"}, {}, True),
        ({"width": 60}, {}, True),
        ({"width": 59}, {}, False),
        ({"color_system": "standard"}, {}, False),
        ({"color_system": None}, {}, False),
        ({"force_terminal": False}, {}, False),
        ({}, {"NO_COLOR": "1"}, False),
        ({}, {"TERM": "dumb"}, False),
        ({"color_system": "auto"}, {"TERM": "xterm-256color", "COLORTERM": ""}, True),
        ({"color_system": "auto"}, {"TERM": "xterm", "COLORTERM": ""}, False),
        ({"color_system": "auto"}, {"TERM": "xterm", "COLORTERM": "truecolor"}, True),
        ({"color_system": "auto"}, {"TERM": "dumb", "COLORTERM": "truecolor"}, False),
    ],
)
def test_pictures_are_drawn_where_the_terminal_can(options, environment, draws, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen, asked = Screen(), []
    file = terminal(screen, **options)
    assert screen.draws == draws
    with screen.watch("mtt", 40) as show:
        show(7, "5 s left", lambda: asked.append(0) or Text("PICTURE"))
        screen.note("a note")
    text = file.getvalue().replace("\r", "")
    assert ("PICTURE" in text) == draws == bool(asked)
    assert "a note\n" in text
    if options.get("force_terminal", True) and environment.get("TERM") != "dumb":
        assert "7/40" in text
        assert "5 s left" in text
    else:
        assert text == "a note\n"


def test_letters_that_a_terminal_has_not_are_not_drawn(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    screen, file = Screen(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen._err = Console(file=file, force_terminal=True, color_system="truecolor", width=80)
    assert not screen.draws


def test_the_panel_is_drawn_when_it_is_due_and_goes_away(monkeypatch, ticking):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    screen, drawn = Screen(), []
    file = terminal(screen)

    def draw():
        drawn.append(ticking[0] - 100)
        ticking[0] += {1: 0.25, 26: 0.25, 51: 0.0625}.get(drawn[-1], 0)  # what drawing takes
        return Text("PICTURE")

    with screen.watch("a [bold]title[/bold]", 400) as show:
        for quarter in range(4 * 58):
            ticking[0] = 100 + quarter / 4
            show(quarter, "words [x]", draw)
    assert drawn == [0, 0.5, 1, 26, 51, 57.25, 57.75]
    text = file.getvalue()
    assert "a [bold]title[/bold]" in text
    assert "words [x]" in text
    assert text.rstrip("\r\n").endswith("\x1b[2K")  # its lines are erased


def test_a_dumb_terminal_has_plain_lines(monkeypatch, ticking):
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    file = terminal(screen, color_system="auto")
    with screen.progress("experts", 40) as update, screen.watch("mtt", 40) as show, screen.live("trials") as redraw:
        ticking[0] = 110
        update(7, "5 s left")
        show(8, "loss 1", lambda: pytest.fail("nothing is drawn"))
        redraw(lambda: pytest.fail("nothing is drawn"), "2 done")
    assert file.getvalue() == "experts: 7 of 40 5 s left\nmtt: 8 of 40 loss 1\ntrials: 2 done\n"


def test_away_from_a_terminal_the_panel_is_a_line_every_ten_seconds(capsys, ticking):
    with Screen().watch("mtt", 40) as show:
        for second in range(25):
            ticking[0] = 100 + second
            show(second, f"loss {second}", lambda: pytest.fail("nothing is drawn"))
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", ["mtt: 10 of 40 loss 10", "mtt: 20 of 40 loss 20"])


def test_a_quiet_screen_keeps_how_much_is_done():
    screen = QuietScreen(lambda line: None)
    assert (screen.words, screen.part) == ("", 0.0)
    with screen.progress("mtt", 40) as update:
        update(0, "")
        update(10, "loss 1")
        assert (screen.words, screen.part) == ("10 of 40 loss 1", 0.25)
    with screen.progress("mtt, which goes on at 900", 1000) as update:
        update(900, "")
        assert screen.part == 0.0, "an earlier command has done it, at no pace of this one"
        update(950, "")
        assert screen.part == 0.5
    with screen.progress("nothing", 0) as update:
        update(0, "")
        assert screen.part == 0.0


def test_no_time_left_is_told_before_it_means_something(ticking):
    """Starting counts for nothing, and neither do a few seconds or a single unit of work."""
    pace = Pace()
    for second, done, expected in (
        (0, 0, None),
        (30, 1, None),  # Ray, workers and data took half a minute
        (32, 3, None),  # two seconds are no pace
        (40, 2, None),  # nor is one unit
        (50, 11, 20 / 10 * 89),
        (70, 100, 0),
    ):
        ticking[0] = 100 + second
        assert pace.left(done, 100) == expected
