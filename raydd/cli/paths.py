"""Checks of paths that need no PyTorch: what must exist, what must not, and where results go.

Each returns what it checks, so that it can be the callback of a flag or an argument.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from raydd.io.filesystem import open_store
from raydd.io.paths import below, check_local, existing as nearest, short_names
from raydd.io.uri import public_uri

T = TypeVar("T")
Place = TypeVar("Place", str, Path, str | None, Path | None)


def existing(path: Path, remedy: str) -> Path:
    """Refuse a path that does not exist."""
    if not check_local(path).expanduser().exists():
        raise ValueError(f"{path} does not exist: {remedy}")
    return path


def existing_or_uri(location: str, remedy: str) -> str:
    """Refuse a path that does not exist, or a URI of an unknown kind; no store is asked."""
    if "://" in location:
        open_store(location)
    else:
        existing(Path(location), remedy)
    return location


def existing_set(location: str) -> str:
    """Refuse a synthetic set that does not exist."""
    return existing_or_uri(location, "name a synset.arrow, a run folder, or another project's files")


def existing_result(location: str) -> str:
    """Refuse a run, or another folder or file of results, that does not exist."""
    return existing_or_uri(location, "name a folder that raydd wrote")


def existing_run(location: str) -> str:
    """Refuse a folder without a run."""
    if "://" in location:
        open_store(location)
    elif not (Path(location) / "config.yaml").exists():
        raise ValueError(f"{location} holds no run; name a folder that raydd distill wrote")
    return location


def local_paths(locations: Sequence[str], tell: Callable[[str], None]) -> list[Path]:
    """Return the paths of folders and files; those at a URI are fetched first, with a line each."""
    if not any("://" in location for location in locations):
        return [Path(location) for location in locations]
    from raydd.buffer.local_path import local_path  # it imports PyArrow

    return [local_path(location, tell) for location in locations]


def fetched(location: str | None) -> str | None:
    """Return the path of a file of settings; one at a URI is fetched."""
    return location if location is None or "://" not in location else str(local_paths([location], lambda line: None)[0])


def existing_buffer(place: str | None) -> str | None:
    """Refuse a buffer that does not exist, or a URI of an unknown kind; no store is asked."""
    if place is not None and "://" in place:
        open_store(place)
    elif place is not None and not Path(place).exists():
        raise ValueError(f"{place} does not exist; make a buffer with `raydd experts --out {place}`")
    return place


def each(check: Callable[[T], T]) -> Callable[[list[T]], list[T]]:
    """Return the check of several values."""
    return lambda values: [check(value) for value in values]


def writable(folder: Place) -> Place:
    """Refuse a folder that cannot be made since a file is in the way, or a URI of an unknown kind."""
    if folder is None:
        return folder
    if "://" in str(folder):
        open_store(str(folder))
    elif not (there := nearest(Path(folder))).is_dir():
        why = f"{there} is a file, and a folder is needed"
        raise ValueError(f"--out {folder} cannot be written: {why}; name another --out")
    return folder


def output(out: str, name: str) -> str:
    """Return where a file of ``--out`` is, without the credentials and options of a URI.

    >>> output("runs/digits", "scores.json"), output("s3://key@bucket/digits?region=x", "scores.json")
    ('runs/digits/scores.json', 's3://bucket/digits/scores.json')
    """
    return f"{public_uri(out).partition('?')[0]}/{name}" if "://" in out else str(Path(out) / name)


def row_names(paths: Sequence[Path | str]) -> list[str]:
    """Return the names of the rows of sets: as many last folders of each path as tell it from the others.

    >>> row_names([Path("runs/a/s0/synset.arrow"), Path("runs/b/s0"), Path("/far/dm.pt")])
    ['a/s0', 'b/s0', 'dm.pt']
    """
    plain = [Path(str(path).partition("?")[0]) for path in paths]  # a URI has its settings there
    return short_names([path.parent if path.name == "synset.arrow" else path for path in plain])


def out_location(out: str, name: str) -> str:
    """Return the file that ``--out`` means: a path as `out_file` does, or a URI, of a file if its ending is the name's.

    >>> out_location("s3://bucket/run", "scores.json"), out_location("s3://bucket/first.json", "scores.json")
    ('s3://bucket/run/scores.json', 's3://bucket/first.json')
    """
    if "://" not in out:
        return str(out_file(Path(out), name))
    if open_store(out).scheme == "file":
        return str(out_file(Path(unquote(urlsplit(out).path)), name))
    head = out.partition("?")[0]
    return out if head.endswith(Path(name).suffix) and head.count("/") > 2 else below(out, name)


def out_file(path: Path, name: str) -> Path:
    """Return the file that ``--out`` means: in a folder that exists the one of this name, otherwise the path itself.

    Raises:
        ValueError: It is no plain file, such as a device, or its folder takes no files.
    """
    check_local(path)
    try:
        path = path / name if path.is_dir() else path
        if path.exists() and not path.is_file():
            raise ValueError(f"--out {path} is no plain file; name a file, such as {name}, or a folder")
        with tempfile.TemporaryFile(dir=nearest(path.absolute().parent)):
            pass
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written ({error.strerror}); name a file elsewhere") from None
    return path
