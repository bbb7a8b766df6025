"""Output for the user: progress and notes on stderr, one result on stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
DRAW_SHARE = 0.01  # the largest part of the time that drawing takes
DRAW_WIDTH = 60
PACE_SECONDS, PACE_UNITS, PACE_SHARE = 5.0, 2, 0.02  # the least progress that gives an estimate
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_VISIBLE = {"\n", "\t", "\u200c", "\u200d"}
Update = Callable[[float, str], None]
"""(units done, text beside the bar)."""
Redraw = Callable[[Callable[[], RenderableType], str], None]
"""(function that draws the picture, the same as a line of text)."""
Show = Callable[[float, str, Callable[[], RenderableType]], None]
"""(units done, text beside the bar, function that draws the picture below it)."""


def visible(text: str) -> str:
    r"""Return text with its control characters, and those that change its direction, as visible escapes.

    Line ends, tabs and the joiners of some scripts stay.

    >>> visible(chr(27) + "[31m cat")
    '\\x1b[31m cat'
    """
    if text.isprintable():
        return text
    hidden = {one for one in text if category(one) in _HIDDEN and one not in _VISIBLE}
    return text.translate({ord(one): one.encode("unicode_escape").decode() for one in hidden})


class _Terminal(Console):
    """A console that makes all text `visible`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class Screen:
    """Notes and progress on stderr; the result on stdout, as text or as exactly one JSON document.

    Attributes:
        documents: The number of JSON documents that this command has printed.
    """

    documents = 0

    def __init__(self, as_json: bool = False) -> None:
        self._json, self._printed = as_json, set[str]()
        self._err = _Terminal(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._out = _Terminal(highlight=False, emoji=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print one line for the user."""
        with PULSE.beside():
            self._err.print(text, markup=False)

    def doing(self, text: str) -> AbstractContextManager[None]:
        """Name on a terminal the work of a block that has no progress of its own."""
        return PULSE.doing(text)

    def once(self, text: str) -> None:
        """Print a note the first time only."""
        if text not in self._printed:
            self._printed.add(text)
            self.note(text)

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Update]:
        """Show a live bar on a terminal; elsewhere print a plain line every ten seconds."""
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
        """Redraw a picture in place on a terminal; elsewhere print a plain line every ten seconds."""
        if not self._moves:
            plain = self._plain(title, 0)
            yield lambda draw, words: plain(0, words)
            return
        line = Progress(TextColumn("{task.description}: {task.fields[words]}", markup=False), TimeElapsedColumn())
        task = line.add_task(title, total=None, words="starting")

        def redraw(draw: Callable[[], RenderableType], words: str) -> None:
            line.update(task, words=words)
            live.update(Group(draw(), line))

        with PULSE.beside(), Live(line, console=self._err, transient=True, refresh_per_second=2) as live:
            yield redraw

    @property
    def _moves(self) -> bool:
        """Whether the terminal can overwrite lines."""
        return self._err.is_terminal and not self._err.is_dumb_terminal

    @property
    def draws(self) -> bool:
        """Whether pictures can be drawn: the terminal has 256 colours or more and 60 columns."""
        console = self._err
        colours = not console.no_color and console.color_system in {"256", "truecolor"}
        return self._moves and colours and not console.options.ascii_only and console.width >= DRAW_WIDTH

    @contextmanager
    def watch(self, title: str, total: float) -> Iterator[Show]:
        """Show a panel with a bar and a picture, if pictures can be drawn; otherwise act as `progress`.

        The panel is drawn at most twice a second, and takes at most a hundredth of the time.
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
        """Print the command's result."""
        PULSE.end()
        if self._json:
            sys.stdout.write(json.dumps(document, default=str) + "\n")
            Screen.documents += 1
        else:
            show(self._out)


class QuietScreen(Screen):
    """A screen of work beside other work: it prints nothing, passes notes on, and keeps the last progress.

    Attributes:
        words: The last progress, as text.
        part: How much is done of what the first progress found undone, from 0 to 1.
        stopped: Whether the work is to end: the next note or progress raises RuntimeError.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell, self.words, self.part, self.stopped = tell, "", 0.0, False

    def note(self, text: str) -> None:
        """Pass a line on."""
        self._check()
        self._tell(text)

    def doing(self, text: str) -> AbstractContextManager[None]:
        """Keep the name of the work of a block."""
        self._check()
        self.words = text
        return nullcontext()

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Update]:
        """Keep the progress."""
        first: float | None = None

        def update(done: float, words: str) -> None:
            nonlocal first
            self._check()
            first = done if first is None else first
            self.words = f"{done:g} of {total:g} {words}".rstrip()
            self.part = (done - first) / (total - first) if total > first else 0.0

        yield update

    @property
    def draws(self) -> bool:
        """Nothing is drawn."""
        return False

    def _check(self) -> None:
        if self.stopped:
            raise RuntimeError("stopped")


class Pace:
    """An estimate of the time left, from the pace since the first progress; the time before it was the start.

    >>> Pace().left(3, 10) is None
    True
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left(self, done: float, total: float) -> float | None:
        """Return the seconds for the rest; None while there is too little progress for an estimate."""
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
    """Return a duration as text.

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
    """Return the time left as text; empty if it is unknown."""
    return "" if seconds is None else f"{clock(seconds)} left"
