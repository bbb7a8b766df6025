"""The line that ticks while nothing else moves."""

import io
import sys
import time
from importlib import import_module
from types import SimpleNamespace

import pytest

from raydd.io import pulse
from raydd.io.pulse import ERASE, Pulse


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as stderr, on which every tick comes soon."""
    file = Terminal()
    monkeypatch.setattr(pulse, "sys", SimpleNamespace(stderr=file, _current_frames=sys._current_frames))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(pulse, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(pulse, "FIRST_SECONDS", 0.0)
    return file


def until(condition):
    """Wait for a few ticks."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not tick"
        time.sleep(0.01)


def test_what_is_done_is_told_and_goes_away(terminal, tmp_path, monkeypatch):
    line = Pulse()
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with line.doing("loading raydd"):
        import_module("slow_module")
        assert terminal.getvalue().count("loading raydd") > 2
        with line.doing("starting Ray"):
            until(lambda: "starting Ray  0 s" in terminal.getvalue())
        until(lambda: "working" in terminal.getvalue())
    assert terminal.getvalue().endswith(ERASE)
    length = len(terminal.getvalue())
    time.sleep(0.1)
    assert len(terminal.getvalue()) == length


def test_beside_a_bar_the_line_is_away_and_the_bar_ticks(terminal):
    line, drawn = Pulse(), []
    with line.doing("working"):
        until(lambda: "working" in terminal.getvalue())
        with line.beside(lambda: drawn.append(0)):
            assert terminal.getvalue().endswith(ERASE)
            length = len(terminal.getvalue())
            until(lambda: len(drawn) > 2)
            assert len(terminal.getvalue()) == length
        until(lambda: len(terminal.getvalue()) > length)


def test_after_the_result_nothing_is_shown_until_the_next_command(terminal):
    line = Pulse()
    with line.doing("working"):
        until(lambda: "working" in terminal.getvalue())
        line.end()
        length = len(terminal.getvalue())
        time.sleep(0.1)
        assert len(terminal.getvalue()) == length
    with line.doing("again"):
        until(lambda: "again" in terminal.getvalue())


def test_what_is_done_soon_shows_nothing(terminal, monkeypatch):
    monkeypatch.setattr(pulse, "FIRST_SECONDS", 60.0)
    with Pulse().doing("working"):
        time.sleep(0.1)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("file", "term"), [(io.StringIO, "xterm"), (Terminal, "dumb")])
def test_away_from_a_terminal_nothing_is_written(file, term, monkeypatch):
    stderr = file()
    monkeypatch.setattr(pulse, "sys", SimpleNamespace(stderr=stderr))
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(pulse, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(pulse, "FIRST_SECONDS", 0.0)
    with Pulse().doing("working"):
        time.sleep(0.1)
    assert stderr.getvalue() == ""
