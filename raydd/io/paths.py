"""Where raydd's own files go."""

import os
from pathlib import Path


def default_cache() -> Path:
    """Return the cache folder: ``$RAYDD_CACHE``, else ``~/.cache/raydd``."""
    return Path(os.environ.get("RAYDD_CACHE") or "~/.cache/raydd").expanduser()


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists.

    >>> existing(Path("/tmp/no/such/folder"))
    PosixPath('/tmp')
    """
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
