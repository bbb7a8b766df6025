"""Checks of paths that need no PyTorch: what must exist, what must not, and where results go."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


def check_paths(
    paths: Sequence[Path], remedy: str = "name a synset.arrow, a run folder, or another project's files"
) -> None:
    """Refuse paths that do not exist.

    Raises:
        ValueError: Naming the first of them.
    """
    for path in paths:
        if not path.expanduser().exists():
            raise ValueError(f"{path} does not exist: {remedy}")


def check_buffers(places: Sequence[str | None]) -> None:
    """Refuse buffers that do not exist, and URIs of an unknown kind; no store is asked.

    Raises:
        ValueError: Naming the first of them.
    """
    from raydd.io.filesystem import is_uri, open_store

    for place in places:
        if place is None or (not is_uri(place) and Path(place).exists()):
            continue
        if not is_uri(place):
            raise ValueError(f"{place} does not exist; make a buffer with `raydd experts --out {place}`")
        open_store(place)


def check_folders(*folders: Path | str | None) -> None:
    """Refuse folders that cannot be made, and URIs of an unknown kind.

    Raises:
        ValueError: A file is in the way.
    """
    from raydd.io.filesystem import is_uri, open_store

    for folder in folders:
        if folder is None:
            continue
        if is_uri(folder):
            open_store(str(folder))
            continue
        there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
        if not there.is_dir():
            raise ValueError(
                f"--out {folder} cannot be written: {there} is a file, and a folder is needed; name another --out"
            )


def row_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the rows of sets: as many last folders of each path as tell it from the others.

    >>> row_names([Path("runs/a/s0/synset.arrow"), Path("runs/b/s0"), Path("/far/dm.pt")])
    ['a/s0', 'b/s0', 'dm.pt']
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    parts = [words[:-1] if words[-1] == "synset.arrow" else words for words in parts]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        lengths = (length for length in range(1, len(own)) if all(own[-length:] != each[-length:] for each in others))
        names.append(str(Path(*own[-next(lengths, len(own)) :])))
    return names


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
