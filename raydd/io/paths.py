"""Where raydd's own files go."""

import os
import re
from pathlib import Path

_COLLAPSED_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?=[^/]|$)")


def default_cache() -> Path:
    """Return the cache folder: ``$RAYDD_CACHE``, else ``~/.cache/raydd``."""
    return Path(os.environ.get("RAYDD_CACHE") or "~/.cache/raydd").expanduser()


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists.

    >>> existing(Path("/tmp/no/such/folder"))
    PosixPath('/tmp')
    """
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def check_local(path: Path) -> Path:
    """Return a path; refuse one that was made from a URI, since it would name a local folder such as ``s3:``.

    >>> check_local(Path("runs/digits"))
    PosixPath('runs/digits')
    """
    match = _COLLAPSED_URI.match(os.fspath(path))
    if match and not path.exists():
        raise ValueError(f"{match[0]}/... is a URI, and a path on this machine is needed here; name a file or folder")
    return path
