"""Files of others: only regular files of a bounded size are read, and nothing larger than a file allows is made."""

import os
import stat
from typing import BinaryIO

MOST_BYTES = 16 << 20
"""Bytes of a document; the values that Python makes of it can take 30 times as much."""
FREE_BYTES = 1 << 29
"""Bytes that any file may unpack to."""
RATIO = 200
"""Bytes that a larger file may unpack to, for each of its own; pictures and numbers pack far less."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a FIFO that nobody writes to, for example, is not waited for.

    A missing file raises FileNotFoundError; everything else ValueError, without the file's name.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror) from None
    raise ValueError("it is not a regular file")


def read_bytes(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file of at most ``most`` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= most:
            data = file.read(size + 1)  # all of it, unless it grows: a read of more bytes takes the memory first
            if len(data) > size:
                data += file.read(most + 1 - len(data))
            if len(data) <= most:
                return data
    raise ValueError(f"it has more than {most:,} bytes")


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """Return the text of a regular file, in UTF-8; see `read_bytes`."""
    return read_bytes(path, most).decode("utf-8")


def check_declared(declared: int, stored: int, name: str) -> None:
    """Refuse a file of ``stored`` bytes that declares that it unpacks to far more."""
    if declared > max(FREE_BYTES, RATIO * stored):
        raise ValueError(
            f"{name} has {stored} bytes and says that it unpacks to {declared}: it is damaged or made to fill the "
            "memory; write it again"
        )
