"""What a person sees: progress and notes on stderr, one result on stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unicodedata import category

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from raydd.io.pulse import PULSE

PLAIN_SECONDS = 10.0
DRAW_SECONDS = 0.5
DRAW_SHARE = 0.01  # of the time may be spent on drawing
DRAW_WIDTH = 60
PACE_SECONDS, PACE_UNITS, PACE_SHARE = 5.0, 2, 0.02  # the least that an estimate is made from
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_KEPT = {"\n", "\t", "\u200c", "\u200d"}
Update = Callable[[float, str], None]
"""(done so far, what to say beside it)."""
Redraw = Callable[[Callable[[], RenderableType], str], None]
"""(what draws the picture, the same in a line)."""
Show = Callable[[float, str, Callable[[], RenderableType]], None]
"""(done so far, what to say beside it, what draws the picture below it)."""


def visible(text: str) -> str:
    r"""Text that no terminal or page obeys: control characters and those that turn its direction as their numbers.

    Line ends and tabs stay, and so do the joiners that some scripts are written with.

    >>> visible(chr(27) + "[31m cat")
    '\\x1b[31m cat'
    """
    if text.isprintable():
        return text
    return "".join(_number(one) if category(one) in _HIDDEN and one not in _KEPT else one for one in text)


def _number(one: str) -> str:
    return one.encode("unicode_escape").decode()


class _Terminal(Console):
    """A console on which whatever text is rendered is `visible`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class Screen:
    """Notes and progress go to stderr; results to stdout, as text or as exactly one JSON document.

    Args:
        as_json: Print the result as JSON.

    Attributes:
        documents: How many JSON documents this command has printed.
    """

    documents = 0

    def __init__(self, as_json: bool = False) -> None:
        self._json, self._said = as_json, set[str]()
        self._err = _Terminal(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._out = _Terminal(highlight=False, emoji=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """One line for the person."""
        with PULSE.beside():
            self._err.print(text, markup=False)

    def doing(self, text: str) -> AbstractContextManager[None]:
        """Say on a terminal what is being done while a block runs that has no progress of its own."""
        return PULSE.doing(text)

    def once(self, text: str) -> None:
        """A note that is shown the first time only."""
        if text not in self._said:
            self._said.add(text)
            self.note(text)

    def say(self, text: str) -> None:
        """One line of the result."""
        self._out.print(text, markup=False)

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Update]:
        """A live bar on a terminal; elsewhere a plain line every ten seconds."""
        if not self._moves:
            yield self._plain(title, total)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        words = TextColumn("{task.fields[words]}")
        with PULSE.beside(), Progress(*columns, words, console=self._err, transient=True) as bar:
            task = bar.add_task(title, total=total, words="")
            yield lambda done, words: bar.update(task, completed=done, words=words)

    @contextmanager
    def live(self, title: str) -> Iterator[Redraw]:
        """A picture that is drawn anew in place on a terminal; elsewhere a plain line every ten seconds."""
        if not self._moves:
            plain = self._plain(title, 0)
            yield lambda draw, words: plain(0, words)
            return
        line = _Ticking(title)
        with PULSE.beside(), Live(line, console=self._err, transient=True, refresh_per_second=2) as live:
            yield lambda draw, words: live.update(Group(draw(), line.saying(words)))

    @property
    def _moves(self) -> bool:
        """Whether what was written can be written over."""
        return self._err.is_terminal and not self._err.is_dumb_terminal

    @property
    def draws(self) -> bool:
        """Whether pictures can be drawn: a terminal of 256 colours or more that is 60 columns wide."""
        console = self._err
        colours = not console.no_color and console.color_system in {"256", "truecolor"}
        return self._moves and colours and not console.options.ascii_only and console.width >= DRAW_WIDTH

    @contextmanager
    def watch(self, title: str, total: float) -> Iterator[Show]:
        """A panel with a bar and a picture below it, where pictures can be drawn; elsewhere as `progress`.

        It is drawn at most twice a second, and so seldom that it takes a hundredth of the time.
        """
        if not self.draws:
            with self.progress(title, total) as update:
                yield lambda done, words, draw: update(done, words)
            return
        bar = Progress(BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(), expand=True)
        task, due = bar.add_task(title, total=total), 0.0

        def show(done: float, words: str, draw: Callable[[], RenderableType]) -> None:
            nonlocal due
            if (now := time.monotonic()) < due:
                return
            bar.update(task, completed=done)
            live.update(Panel(Group(bar, Text(words), draw()), title=Text(title)), refresh=True)
            due = now + max(DRAW_SECONDS, (time.monotonic() - now) / DRAW_SHARE)

        with Live(console=self._err, transient=True, auto_refresh=False) as live, PULSE.beside(live.refresh):
            live.update(Panel(bar, title=Text(title)), refresh=True)
            yield show

    def _plain(self, title: str, total: float) -> Update:
        last = time.monotonic()

        def update(done: float, words: str) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_SECONDS:
                last = time.monotonic()
                counted = f"{done:g} of {total:g} " if total else ""
                self.note(f"{title}: {counted}{words}".rstrip())

        return update

    def result(self, document: dict[str, Any], show: Callable[[Console], None]) -> None:
        """The command's one result."""
        PULSE.end()
        if self._json:
            sys.stdout.write(json.dumps(document, default=str) + "\n")
            Screen.documents += 1
        else:
            show(self._out)


class _Ticking:
    """A line that says what goes on, and for how long it has."""

    def __init__(self, title: str) -> None:
        self._title, self._words, self._start = title, "starting", time.monotonic()

    def saying(self, words: str) -> "_Ticking":
        """The line with other words."""
        self._words = words
        return self

    def __rich__(self) -> Text:
        return Text(f"{self._title}: {self._words} ({clock(time.monotonic() - self._start)})")


class Pace:
    """The time left, by the pace since the first progress: what came before it was starting.

    >>> Pace().left(3, 10) is None
    True
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left(self, done: float, total: float) -> float | None:
        """Seconds for the rest; None as long as an estimate would mean nothing.

        Args:
            done: Units of work so far, in this run.
            total: Units of work of this run.
        """
        now = time.monotonic()
        if done > 0 and self._first is None:
            self._first = now, done
        if self._first is None:
            return None
        since, before = self._first
        if now - since < PACE_SECONDS or done - before < min(PACE_UNITS, PACE_SHARE * total):
            return None
        return (now - since) / (done - before) * (total - done)


def clock(seconds: float) -> str:
    """A duration as people read it.

    >>> clock(42), clock(125), clock(7300)
    ('42 s', '2 min 5 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def left(seconds: float | None) -> str:
    """Words for the time left; empty when it is not known."""
    return "" if seconds is None else f"{clock(seconds)} left"
