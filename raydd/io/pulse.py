"""A line at the bottom of a terminal that names the current work, and ticks while nothing else moves.

A thread of its own draws it, so that it moves whatever the process does. It needs no Rich, which takes a while to
load. Without a terminal nothing is written.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK_SECONDS = 0.5
FIRST_SECONDS = 1.0  # shorter work is not shown
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_FRAMES = "|/-\\"
LOADING, WORKING = "loading raydd", "working"
ERASE = "\r\x1b[2K"


class Pulse:
    """The current work, as a stack: the innermost is shown, with its seconds.

    While something else draws, such as a bar, the line is hidden; every tick may redraw that instead.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._doing: list[tuple[str, float]] = []
        self._others: list[Callable[[], object] | None] = []
        self._visible, self._frame, self._ended = False, 0, False
        self._thread: threading.Thread | None = None

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Show a text while the block runs."""
        with self._lock:
            self._ended = self._ended and bool(self._doing)
            self._doing.append((text, time.monotonic()))
            depth = len(self._doing)
            self._begin()
        try:
            yield
        finally:
            with self._lock:
                del self._doing[depth - 1 :]
                self._erase()

    @contextmanager
    def beside(self, draw: Callable[[], object] | None = None) -> Iterator[None]:
        """Hide the line while something else draws; every tick calls ``draw``."""
        with self._lock:
            self._erase()
            self._others.append(draw)
            self._begin()
        try:
            yield
        finally:
            with self._lock:
                self._others.pop()

    def end(self) -> None:
        """Show nothing more in the current blocks, because the result is printed now."""
        with self._lock:
            self._erase()
            self._ended = True

    def _begin(self) -> None:
        if self._thread is None and _moves():
            self._thread = threading.Thread(target=self._tick, name="pulse", daemon=True)
            self._thread.start()

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            with self._lock:
                if not self._doing and not self._others:
                    self._thread = None
                    return
                self._draw()

    def _draw(self) -> None:
        if self._ended:
            return
        if self._others:
            if draw := self._others[-1]:
                draw()
            return
        text, since = self._doing[-1]
        if (seconds := time.monotonic() - since) < FIRST_SECONDS and not self._visible:
            return
        frames = FRAMES if "utf" in (sys.stderr.encoding or "").lower() else PLAIN_FRAMES
        if text == LOADING and not _imports():
            text = WORKING
        self._frame += 1
        line = f"{frames[self._frame % len(frames)]} {text}  {seconds:.0f} s"
        sys.stderr.write(ERASE + line[: _width() - 1])
        sys.stderr.flush()
        self._visible = True

    def _erase(self) -> None:
        if self._visible:
            sys.stderr.write(ERASE)
            sys.stderr.flush()
            self._visible = False


def _imports() -> bool:
    """Return whether the main thread is inside an import."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _moves() -> bool:
    """Return whether stderr is a terminal that can overwrite a line."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


PULSE = Pulse()
"""The line of this process."""
