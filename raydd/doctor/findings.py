"""What a look at this machine found, and how a look that fails is told."""

from collections.abc import Callable
from typing import Literal, NamedTuple

State = Literal["ok", "warning", "fault"]


class Finding(NamedTuple):
    """One line of `raydd doctor`.

    Attributes:
        name: What was looked at.
        state: ok; warning: raydd runs, but not all of it or not well; fault: something does not run.
        found: What is there.
        remedy: Of a warning or a fault, what to do about it, in one sentence.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


Look = Callable[[], list[Finding]]


def attempt(name: str, look: Look) -> list[Finding]:
    """What a look found; one that fails is a fault by itself, and hides none of the others.

    >>> attempt("disk", lambda: [][0])[0].found
    'could not be looked at (IndexError: list index out of range)'
    """
    try:
        return look()
    except Exception as error:  # whatever is broken, the other looks go on
        found = f"could not be looked at ({reason(error)})"
        return [Finding(name, "fault", found, "Mend that first, then run `raydd doctor` again.")]


def reason(error: BaseException) -> str:
    """An error in one short line.

    >>> reason(RuntimeError("no" + chr(10) + " way"))
    'RuntimeError: no way'
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(": ")
