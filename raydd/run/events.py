"""Notes and progress of a distillation in another process, as events: emitted there, and shown on a screen here."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from rich.console import RenderableType
from rich.text import Text

from raydd.io.console import DRAW_SECONDS, DRAW_SHARE, Screen, Show


class Note(NamedTuple):
    """A line for the user."""

    text: str


class Doing(NamedTuple):
    """Work without a progress of its own that begins; an empty text ends it."""

    text: str


class Watch(NamedTuple):
    """The begin of a progress; an empty title ends it."""

    title: str
    total: float = 0.0


class Update(NamedTuple):
    """A progress: units done, words beside the bar, and the picture below it where one is drawn."""

    done: float
    words: str
    picture: RenderableType | None


Emit = Callable[[Any], None]


class EventScreen(Screen):
    """A screen that emits events; progress at most every `DRAW_SECONDS`.

    Attributes:
        public: Returns a line with the names that the user knows.
    """

    def __init__(self, emit: Emit, pictures: bool) -> None:
        super().__init__()
        self._emit, self._pictures = emit, pictures
        self.public: Callable[[str], str] = lambda text: text

    def note(self, text: str) -> None:
        """Emit one line for the user."""
        self._emit(Note(self.public(text)))

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Emit the name of the work of a block."""
        self._emit(Doing(text))
        yield
        self._emit(Doing(""))

    @contextmanager
    def watch(self, title: str, total: float) -> Iterator[Show]:
        """Emit a progress and its picture; drawing takes at most a hundredth of the time."""
        due = 0.0

        def show(done: float, words: str, draw: Callable[[], RenderableType]) -> None:
            nonlocal due
            if (now := time.monotonic()) < due:
                return
            self._emit(Update(done, words, draw() if self._pictures else None))
            due = now + max(DRAW_SECONDS, (time.monotonic() - now) / DRAW_SHARE)

        self._emit(Watch(title, total))
        yield show
        self._emit(Watch(""))


class Replay:
    """Shows events on a screen, as if the work were done here."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._open = screen, ExitStack()
        self._show: Show | None = None

    @property
    def watches(self) -> bool:
        """Whether a progress is shown."""
        return self._show is not None

    def show(self, event: Any) -> bool:
        """Show an event; return False for one that shows nothing."""
        match event:
            case Note(text):
                self._screen.note(text)
            case Doing(text):
                self.close()
                if text:
                    self._open.enter_context(self._screen.doing(text))
            case Watch(title, total):
                self.close()
                if title:
                    self._show = self._open.enter_context(self._screen.watch(title, total))
            case Update(done, words, picture):
                if self._show is not None:
                    self._show(done, words, lambda: Text() if picture is None else picture)
            case _:
                return False
        return True

    def close(self) -> None:
        """End the current block."""
        self._show = None
        self._open.close()
