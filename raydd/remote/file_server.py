"""Handing out the bytes of files; it loads nothing but numpy, since it is a process of its own."""

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 4 << 20
"""Bytes of a file that travel in one message."""


class Librarian:
    """Hands out the bytes of expert files on the node that has them.

    Args:
        paths: Of the files, by the experts' numbers; opened at once, so that they may be moved or replaced later.
    """

    def __init__(self, paths: dict[int, Path]) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._files = {index: os.open(path, os.O_RDONLY) for index, path in paths.items()}

    def ready(self) -> bool:
        """Whether the files are open."""
        return True

    def read(self, index: int, start: int) -> np.ndarray[Any, Any]:
        """`CHUNK` bytes of an expert's file from ``start`` on, or what is left; uint8."""
        return np.frombuffer(os.pread(self._files[index], CHUNK, start), np.uint8)
