"""Bounds on what outside files say of themselves, checked before anything of that size is made."""

from typing import Any

from raydd.io.document import parse

FREE_BYTES = 1 << 29
"""A file may unpack to this much however small it is."""
RATIO = 200
"""Bytes that a larger one may unpack to, for each of its own; pictures and numbers pack far less."""


def check_declared(declared: int, stored: int, origin: str) -> None:
    """Refuse a file that unpacks to far more than it holds.

    Args:
        declared: Bytes that it says it unpacks to.
        stored: Its own bytes.
        origin: Its name.

    Raises:
        ValueError: It declares more than `FREE_BYTES` and `RATIO` allow.
    """
    if declared > max(FREE_BYTES, RATIO * stored):
        raise ValueError(
            f"{origin} has {stored} bytes and says that it unpacks to {declared}: it is damaged or made to fill the "
            "memory; write it again"
        )


def read_json(text: str | bytes, origin: str) -> Any:
    """The values of a JSON text.

    Raises:
        ValueError: It is no JSON, or too large or too deeply nested.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{origin} is no JSON ({' '.join(str(error).split())}): write it again") from None
