"""A finding of `raydd doctor`, and how a check that fails becomes one."""

from collections.abc import Callable
from typing import Literal, NamedTuple

State = Literal["ok", "warning", "fault"]


class Finding(NamedTuple):
    """One line of `raydd doctor`.

    Attributes:
        name: What was checked.
        state: ok; warning: raydd runs, but a part of it does not, or not well; fault: raydd does not run.
        detail: What the check saw.
        remedy: What to do about a warning or a fault, in one sentence.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""

    def document(self) -> dict[str, str]:
        """Return the finding as `raydd doctor --json` prints it."""
        return {"name": self.name, "state": self.state, "found": self.detail, "remedy": self.remedy}


def attempt(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings of a check; a check that raises is a fault, so that it hides no other.

    >>> attempt("disk", lambda: [][0])[0].detail
    'could not be looked at (IndexError: list index out of range)'
    """
    try:
        return check()
    except Exception as error:  # whatever is broken, the other checks go on
        return [Finding(name, "fault", f"could not be looked at ({reason(error)})", FIRST)]


FIRST = "Fix that first, then run `raydd doctor` again."


def reason(error: BaseException) -> str:
    """Return an error in one short line.

    >>> reason(RuntimeError("no" + chr(10) + " way"))
    'RuntimeError: no way'
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(": ")
