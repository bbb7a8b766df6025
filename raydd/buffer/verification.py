"""Whether every byte of a buffer is as it was written.

A machine reads each file once: in its cache it remembers which files it has found whole. A file that has been touched
since is read again.
"""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from raydd.buffer.arrow_buffer import open_stored, stored_experts
from raydd.buffer.expert_file import expert_path, not_finite
from raydd.buffer.manifest import manifest_entry, read_manifest
from raydd.buffer.spec import BufferSpec
from raydd.data.preprocessing import load_transform
from raydd.io.arrow_file import checksum
from raydd.io.document import Document, read_document, write_document
from raydd.io.files import AnyPath
from raydd.io.paths import default_cache

SETTLED_SECONDS = 2.0  # a file that was changed this short ago could change again without a sign

Identity = tuple[int, int, int, int, str]
"""Of a file that was read: its inode, its bytes, when its content and its inode changed (ns), and its checksum."""


class Problem(NamedTuple):
    """An error in a buffer: the file's name, and what is wrong with it."""

    file: str
    what: str


class _Whole(Document):
    """The files of a folder that were found whole, by name."""

    folder: str
    files: dict[str, Identity]


def verify(folder: AnyPath, *, again: bool = True) -> list[Problem]:
    """Return the errors of a buffer; a whole buffer has none.

    Args:
        folder: The buffer's.
        again: Whether files are read that this machine has found whole before, and that have not been touched since.
    """
    spec, entries = read_manifest(folder)
    indices = sorted({*stored_experts(folder), *entries})
    known = _recall(folder)
    check = partial(_check, folder, spec, entries, {} if again else known)
    names = [expert_path(folder, index).name for index in indices]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        results = dict(zip(names, threads.map(check, indices), strict=True))
    whole = {name: result for name, result in results.items() if not isinstance(result, str)}
    _remember(folder, {name: identity for name, identity in whole.items() if identity is not None}, known)
    errors = [Problem(name, result) for name, result in results.items() if isinstance(result, str)]
    return [*_preprocessing_errors(folder), *errors]


def check_whole(folder: AnyPath) -> None:
    """Raise a `ValueError` that names the first damaged file of a buffer; what is known to be whole is not read."""
    for problem in verify(folder, again=False):
        raise ValueError(f"{Path(folder) / problem.file} is damaged: {problem.what}")


def _preprocessing_errors(folder: AnyPath) -> list[Problem]:
    path = Path(folder) / "preprocessing.arrow"
    try:
        if os.path.lexists(path):
            load_transform(path.parent)
    except ValueError as error:
        return [Problem(path.name, str(error))]
    return []


def _check(
    folder: AnyPath, spec: BufferSpec, entries: dict[int, dict[str, Any]], known: dict[str, Identity], index: int
) -> Identity | str | None:
    """Return what is wrong with a file, or else its identity; None if it was changed too short ago to have one."""
    path = expert_path(folder, index)
    try:
        table = open_stored(folder, index, spec)
    except ValueError as error:
        return str(error)
    entry = entries.get(index)
    if entry and (now := manifest_entry(path, index, table)) != entry:
        what = next(f"{key} is {now[key]} instead of {entry[key]}" for key in now if now[key] != entry.get(key))
        return f"it does not fit the manifest ({what}): run `raydd experts` again"
    stored = table.metadata["checksum"]
    before = _identity(path, stored)
    if before is not None and before == known.get(path.name):
        return before
    if checksum(table.columns, table.release) != stored:
        return "its values changed since it was written (checksum): delete it and run `raydd experts` again"
    return not_finite(table.columns) or (before if before == _identity(path, stored) else None)


def _identity(path: Path, stored: str) -> Identity | None:
    status = path.stat()
    if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, stored


def _record_path(folder: AnyPath) -> Path:
    name = os.path.realpath(folder)
    return default_cache() / "verified" / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.json"


def _recall(folder: AnyPath) -> dict[str, Identity]:
    path = _record_path(folder)
    try:
        return read_document(path, _Whole, "it is only a memory").files if path.exists() else {}
    except ValueError:  # of another version, or damaged: everything is read
        return {}


def _remember(folder: AnyPath, whole: dict[str, Identity], known: dict[str, Identity]) -> None:
    if whole == known:
        return
    try:
        write_document(_record_path(folder), {"folder": os.path.realpath(folder), "files": whole})
    except OSError:  # no room, or no cache to write to: the next run reads the files again
        return
