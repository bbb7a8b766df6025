"""SIGTERM ends a process by an exception, so that its blocks can clean up."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

TERMINATED = 128 + signal.SIGTERM
_received: list[int] = []


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave the program by an exception, with the exit code that a shell gives to SIGTERM."""
    _received.append(number)
    raise SystemExit(TERMINATED)


def terminated() -> bool:
    """Return whether SIGTERM was received; Ray changes the code of a `SystemExit` that is raised while it waits."""
    return bool(_received)


@contextmanager
def terminates() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end the block by `SystemExit` with the code `TERMINATED`, and restore the handler after it.

    A handler of the program's own stays. Only the main thread may set handlers, so in others nothing changes.

    Yields:
        A function that sets the handler again after code that set another one, as `ray.init` does.
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
