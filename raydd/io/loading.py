"""Imports of large packages."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import modules in the block a fifth faster: without a search for garbage, of which they leave none.

    What is loaded stays out of later searches.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        freeze()
        if enabled:
            gc.enable()


def freeze() -> None:
    """Keep all that exists out of searches for garbage: the interpreter's last one takes a second with PyTorch.

    Not where the compiler of GPU kernels is loaded, which tells at the end of everything that was not collected.
    """
    if "triton" not in sys.modules:
        gc.freeze()
