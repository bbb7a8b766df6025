"""The files with which a trial goes on elsewhere: on another node, or as another trial of a population.

A checkpoint is a folder with all files of a trial's run, and `INDEX`, which lists them with their sizes: a folder that
lacks one of them was not copied completely.
"""

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from raydd.data.run_progress import CHECKPOINT
from raydd.io.document import Document, Whole, parse_document, write_document
from raydd.io.files import atomic_path
from raydd.run.claim import RESULTS
from raydd.tuning.trial import REPORTS, progress_of

INDEX, INHERITED, STATE = "checkpoint.json", "inherited", CHECKPOINT.as_posix()
_PREFIX = "checkpoint_"  # of the folders that Tune makes in a trial's folder
_FILES = (REPORTS, "config.yaml", "probe.jsonl", "window.json", *(name for name in RESULTS if name != "checkpoint"))


class _IndexDocument(Document):
    files: dict[str, Whole]
    progress: tuple[Whole, Whole, bool]


class Copy(NamedTuple):
    """A complete checkpoint in a listing of a trial's folder: its folder's name, its files, and how far it is."""

    name: str
    files: dict[str, int]
    progress: tuple[int, int, bool]


def run_files(folder: Path) -> list[str]:
    """Return the files of a trial's run, by their path in its folder; the state comes last."""
    scored = (path.relative_to(folder).as_posix() for path in sorted((folder / "steps").glob("*.arrow")))
    return [name for name in (*_FILES, *scored, STATE) if (folder / name).is_file()]


def is_run_file(name: str) -> bool:
    """Return whether a path in a trial's folder is of its run, or the index of one."""
    return name in (*_FILES, STATE, INDEX) or name.startswith("steps/")


def export_checkpoint(folder: Path, to: Path) -> None:
    """Copy a trial's run into an existing folder, with an index."""
    sizes = {}
    for name in run_files(folder):
        (to / name).parent.mkdir(exist_ok=True)
        sizes[name] = Path(shutil.copyfile(folder / name, to / name)).stat().st_size
    write_document(to / INDEX, {"files": sizes, "progress": list(progress_of(folder))})


def replace_run(folder: Path, names: Iterable[str], copy: Callable[[str, Path], None]) -> None:
    """Replace a trial's run by other files; a kill at any time leaves a run without a state, or a whole one.

    Args:
        folder: The trial's folder.
        names: The files to bring there, by their path in it.
        copy: Copies a file to a path.
    """
    remove_run(folder)
    for name in sorted(names, key=lambda name: name == STATE):
        if name != INDEX:
            with atomic_path(folder / name) as temporary:
                copy(name, temporary)


def remove_run(folder: Path) -> None:
    """Remove the files of a trial's run."""
    for name in reversed(run_files(folder)):
        (folder / name).unlink()
    for name in ("checkpoint", "steps"):
        with suppress(OSError):  # there is none, or it holds other files
            (folder / name).rmdir()


def newest_copy(sizes: dict[str, int], read: Callable[[str], bytes]) -> Copy | None:
    """Return the last complete checkpoint of a trial's folder, else its run; None where there is none.

    Args:
        sizes: The bytes of all files below the folder, by their path in it.
        read: Returns a file's content.
    """
    copies = []
    for path in sizes:
        name, _, rest = path.rpartition("/")
        if rest != INDEX or "/" in name or not (name == "" or name.startswith(_PREFIX)):
            continue
        try:
            index, _ = parse_document(read(path), _IndexDocument)
        except (OSError, ValueError):  # not copied completely
            continue
        # Of its own folder only: a file of an older copy may have the same size.
        if all(sizes.get(f"{name}/{file}" if name else file) == size for file, size in index.files.items()):
            copies.append(Copy(name, index.files, index.progress))
    plain = {name: size for name, size in sizes.items() if name != INDEX and is_run_file(name)}
    if not copies and "config.yaml" in plain:  # a run that was written here, and never copied
        copies.append(Copy("", plain, (0, 0, False)))
    return max(copies, key=lambda copy: copy.name, default=None)  # a later one may be of fewer steps, of another trial


def checkpoint_folders(paths: Iterable[str]) -> list[str]:
    """Return the names of Tune's checkpoints in a listing of a trial's folder."""
    return sorted({path.partition("/")[0] for path in paths if path.startswith(_PREFIX) and "/" in path})


def inherit_checkpoint(folder: Path, checkpoint: Path | None) -> Path | None:
    """Replace a trial's run by a checkpoint that the trial then goes on from, with settings of its own.

    The copy is complete before the old run is removed, so that a kill at any time leaves one of the two.
    Without a checkpoint, use the trial's own state, else the copy that an earlier call left. Return the copy, or None
    where the trial starts from nothing.
    """
    copy, fresh = folder / INHERITED, folder / f"{INHERITED}.new"
    if checkpoint is not None or (folder / CHECKPOINT).exists():
        shutil.rmtree(fresh, ignore_errors=True)
        if checkpoint is None:
            fresh.mkdir()
            export_checkpoint(folder, fresh)
        else:
            shutil.copytree(checkpoint, fresh)
        shutil.rmtree(copy, ignore_errors=True)
        fresh.rename(copy)
    if not copy.exists():
        return None
    remove_run(folder)
    return copy


def discard_inherited(folder: Path) -> None:
    """Remove the copy of `inherit_checkpoint` once the trial has a checkpoint of its own."""
    shutil.rmtree(folder / INHERITED, ignore_errors=True)
