"""An actor that serves the bytes of files; it imports only numpy, because it is a process of its own."""

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 4 << 20
"""Bytes of a file in one message."""


class FileServer:
    """Serves the bytes of expert files on the node that has them, even if they are moved or replaced later."""

    def __init__(self, paths: dict[int, Path]) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._files = {index: os.open(path, os.O_RDONLY) for index, path in paths.items()}

    def ready(self) -> bool:
        """Return True: the files are open."""
        return True

    def read(self, index: int, start: int) -> np.ndarray[Any, Any]:
        """Return `CHUNK` bytes of an expert's file from ``start`` on, or the rest of it, as uint8."""
        return np.frombuffer(os.pread(self._files[index], CHUNK, start), np.uint8)
