"""Where raydd's own files go, and names of paths."""

import os
import re
from collections.abc import Sequence
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


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return of each path as many last parts as distinguish it from the others.

    >>> short_names([Path("runs/a/s0"), Path("runs/b/s0"), Path("far/dm")])
    ['a/s0', 'b/s0', 'dm']
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        lengths = (length for length in range(1, len(own)) if all(own[-length:] != each[-length:] for each in others))
        names.append(str(Path(*own[-next(lengths, len(own)) :])))
    return names


def check_local(path: Path) -> Path:
    """Return a path; refuse one that was made from a URI, since it would name a local folder such as ``s3:``.

    >>> check_local(Path("runs/digits"))
    PosixPath('runs/digits')
    """
    match = _COLLAPSED_URI.match(os.fspath(path))
    if match and not path.exists():
        raise ValueError(f"{match[0]}/... is a URI, and a path on this machine is needed here; name a file or folder")
    return path


def below(uri: str, path: str) -> str:
    """Return the URI of a file or folder below another.

    >>> below("s3://key@bucket/runs/?region=eu-west-1", "best")
    's3://key@bucket/runs/best?region=eu-west-1'
    """
    head, mark, query = uri.partition("?")
    return f"{head.rstrip('/')}/{path}{mark}{query}"


def split_uri(uri: str) -> tuple[str, str]:
    """Return the URI of a file's folder, and the file's name.

    >>> split_uri("s3://key@bucket/runs/scores.json?region=eu-west-1")
    ('s3://key@bucket/runs?region=eu-west-1', 'scores.json')
    """
    head, mark, query = uri.partition("?")
    parent, _, name = head.rstrip("/").rpartition("/")
    if parent.endswith("/"):
        raise ValueError(f"{name.rpartition('@')[2]} is a bucket; name a file in it")
    return f"{parent}{mark}{query}", name
