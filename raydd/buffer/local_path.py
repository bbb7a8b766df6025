"""Runs, sets and buffers at a URI, as paths on this machine."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from raydd.buffer.mirror import MANIFEST, local_folder
from raydd.io.files import AnyPath
from raydd.io.filesystem import open_store
from raydd.io.lock import one_at_a_time
from raydd.io.paths import below, check_local, split_uri
from raydd.io.stored_folder import INDEX, StoredFolder, copy_folder, stored_copy
from raydd.io.uri import is_uri

SEARCH, SEARCH_FOLDERS = "space.yaml", ("", "best", "figures")
"""What a search at a URI has, and its folders of small files; the runs of its trials stay there."""
Tell = Callable[[str], None]


def local_path(location: AnyPath, tell: Tell | None = None) -> Path:
    """Return the path of a run folder, a search, a buffer or a file; what is at a URI is fetched into the cache first.

    Args:
        location: A path, or the URI of a folder that raydd wrote or of one file. ``file://`` is read in place.
        tell: Takes a line on what was fetched.

    Raises:
        ValueError: The URI has nothing that raydd wrote.
        OSError: It cannot be read.
    """
    text = os.fspath(location)
    if not is_uri(text):
        return check_local(Path(text))
    store = open_store(text)
    if store.local is not None:
        return store.local
    names = store.names()
    if INDEX in names:
        folder = stored_copy(text)
        if tell:
            tell(f"{store.public_uri}: fetched into {folder}")
        return folder
    if MANIFEST in names:
        return local_folder(text, tell)
    if SEARCH in names:
        return _fetched_search(text)
    if (file := _fetched_file(text)) is not None:
        return file
    raise ValueError(f"{store.public_uri} holds no run, buffer or file of raydd; name the URI that raydd wrote to")


def _fetched_file(uri: str) -> Path | None:
    """Return this node's copy of one file; None if the URI is not that of a file."""
    try:
        parent, name = split_uri(uri)
    except ValueError:  # a bucket
        return None
    if not Path(name).suffix:
        return None
    store = open_store(parent)
    if name in (StoredFolder(store.uri).files() or ()):
        return stored_copy(store.uri) / name
    folder = copy_folder(uri, "files")
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder):
        try:
            return store.get(name, folder / name)
        except FileNotFoundError:
            return None


def _fetched_search(uri: str) -> Path:
    """Return this node's copy of a search's small files, with the times of the store: a page compares them."""
    folder = copy_folder(uri, "searches")
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder):
        for part in SEARCH_FOLDERS:
            store = open_store(below(uri, part) if part else uri)
            times = {name: seconds for name, seconds in store.times("").items() if not name.endswith(".tmp")}
            for name, seconds in times.items():
                with suppress(FileNotFoundError):  # its search replaces it just now
                    os.utime(store.get(name, folder / part / name), (seconds, seconds))
            for path in (folder / part).glob("*"):
                if path.is_file() and path.name not in times:
                    path.unlink()
    return folder
