"""How a process ends by SIGTERM: by an exception, so that what was begun is put away."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

TERMINATED = 128 + signal.SIGTERM
_received: list[int] = []


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave the program from wherever it is, with the exit code that a shell gives to SIGTERM."""
    _received.append(number)
    raise SystemExit(TERMINATED)


def terminated() -> bool:
    """Whether SIGTERM was received; Ray changes the code of a `SystemExit` that is raised while it waits."""
    return bool(_received)


@contextmanager
def terminates() -> Iterator[Callable[[], None]]:
    """SIGTERM ends the block by `SystemExit`, unless the program has a handler of its own; after it, all is as before.

    The exit code is `TERMINATED`.

    Other threads than the main one may not set handlers, so there nothing changes.

    Yields:
        What sets the handler again after code that set another one, as `ray.init` does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    inside = terminate if before == signal.SIG_DFL else before

    def again() -> None:
        signal.signal(signal.SIGTERM, inside)

    again()
    try:
        yield again
    except SystemExit as error:
        raise SystemExit(TERMINATED if terminated() else error.code) from None
    finally:
        signal.signal(signal.SIGTERM, before)
