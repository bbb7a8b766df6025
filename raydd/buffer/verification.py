"""Whether every byte of a buffer is as it was written.

A machine reads each file once: in its cache it remembers which files it has found whole. A file that has been touched
since is read again.
"""

import os
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
from raydd.io.files import AnyPath
from raydd.io.found_whole import FoundWhole, Identity, identity
from raydd.io.paths import default_cache


class Problem(NamedTuple):
    """An error in a buffer: the file's name, and what is wrong with it."""

    file: str
    what: str


def verify(folder: AnyPath, *, again: bool = True) -> list[Problem]:
    """Return the errors of a buffer; a whole buffer has none.

    Args:
        folder: The buffer's.
        again: Whether files are read that this machine has found whole before, and that have not been touched since.
    """
    spec, entries = read_manifest(folder)
    indices = sorted({*stored_experts(folder), *entries})
    memory = FoundWhole(folder, default_cache())
    check = partial(_check, folder, spec, entries, {} if again else memory.known)
    names = [expert_path(folder, index).name for index in indices]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        results = dict(zip(names, threads.map(check, indices), strict=True))
    whole = {name: result for name, result in results.items() if not isinstance(result, str)}
    memory.remember({name: own for name, own in whole.items() if own is not None})
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
    before = identity(path, stored)
    if before is not None and before == known.get(path.name):
        return before
    if checksum(table.columns, table.release) != stored:
        return "its values changed since it was written (checksum): delete it and run `raydd experts` again"
    return not_finite(table.columns) or (before if before == identity(path, stored) else None)
