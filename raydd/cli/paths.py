"""Checks of paths that need no PyTorch: what must exist, what must not, and where results go.

Each returns what it checks, so that it can be the callback of a flag or an argument.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from raydd.io.paths import short_names


def existing(path: Path, remedy: str) -> Path:
    """Refuse a path that does not exist."""
    if not path.expanduser().exists():
        raise ValueError(f"{path} does not exist: {remedy}")
    return path


def existing_set(path: Path) -> Path:
    """Refuse a synthetic set that does not exist."""
    return existing(path, "name a synset.arrow, a run folder, or another project's files")


def existing_sets(paths: list[Path]) -> list[Path]:
    """Refuse synthetic sets of which one does not exist."""
    return [existing_set(path) for path in paths]


def existing_runs(paths: list[Path]) -> list[Path]:
    """Refuse folders of runs of which one does not exist."""
    return [existing(path, "name a folder that raydd wrote") for path in paths]


def existing_run(path: Path) -> Path:
    """Refuse a folder without a run."""
    if not (path / "config.yaml").exists():
        raise ValueError(f"{path} holds no run; name a folder that raydd distill wrote")
    return path


def existing_buffer(place: str | None) -> str | None:
    """Refuse a buffer that does not exist, or a URI of an unknown kind; no store is asked."""
    if place is not None and "://" in place:
        _known_store(place)
    elif place is not None and not Path(place).exists():
        raise ValueError(f"{place} does not exist; make a buffer with `raydd experts --out {place}`")
    return place


def existing_buffers(places: list[str]) -> list[str]:
    """Refuse buffers of which one does not exist."""
    return [str(existing_buffer(place)) for place in places]


def writable(folder: str | None) -> str | None:
    """Refuse a folder that cannot be made since a file is in the way, or a URI of an unknown kind."""
    if folder is not None and "://" in folder:
        _known_store(folder)
    elif folder is not None:
        there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
        if not there.is_dir():
            why = f"{there} is a file, and a folder is needed"
            raise ValueError(f"--out {folder} cannot be written: {why}; name another --out")
    return folder


def _known_store(uri: str) -> None:
    from raydd.io.filesystem import open_store  # it imports PyArrow

    open_store(uri)


def writable_folder(folder: Path | None) -> Path | None:
    """Refuse a folder that cannot be made since a file is in the way."""
    return folder if folder is None else Path(str(writable(str(folder))))


def row_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the rows of sets: as many last folders of each path as tell it from the others.

    >>> row_names([Path("runs/a/s0/synset.arrow"), Path("runs/b/s0"), Path("/far/dm.pt")])
    ['a/s0', 'b/s0', 'dm.pt']
    """
    return short_names([path.parent if path.name == "synset.arrow" else path for path in paths])


def out_file(path: Path, name: str) -> Path:
    """Return the file that ``--out`` means: in a folder that exists the one of this name, otherwise the path itself.

    Raises:
        ValueError: It is no plain file, such as a device, or its folder takes no files.
    """
    try:
        path = path / name if path.is_dir() else path
        if path.exists() and not path.is_file():
            raise ValueError(f"--out {path} is no plain file; name a file, such as {name}, or a folder")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written ({error.strerror}); name a file elsewhere") from None
    return path
