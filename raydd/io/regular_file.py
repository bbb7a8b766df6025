"""Regular files of a bounded size: nothing is waited for, and nothing larger than it may be is read."""

import os
import stat
from typing import BinaryIO

MOST_BYTES = 16 << 20
"""Of a document; what Python makes of it can take 30 times as much."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; nothing else, such as a FIFO that nobody writes to, is waited for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, a FIFO, a socket or a device, or it cannot be opened; without the file's name.
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
    """The bytes of a regular file of at most ``most`` bytes.

    Raises:
        ValueError: It is larger, not a regular file, or cannot be opened.
        OSError: There is none, or it cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """The text of a regular file, in UTF-8; see `read_bytes`."""
    return read_bytes(path, most).decode("utf-8")
