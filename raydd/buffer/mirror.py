"""Buffers at an URI, and each node's copy of them.

A store holds the files of a buffer's folder, byte by byte. None of them is mapped there: `fetch` brings them to this
node's mirror, a folder of the cache, and whoever reads opens that.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raydd.buffer.arrow_buffer import verify
from raydd.buffer.manifest import parse_manifest, read_manifest, write_manifest
from raydd.data.image_cache import default_cache, one_at_a_time
from raydd.io.files import AnyPath, open_arrow, sweep, write_atomic
from raydd.io.filesystem import KNOWN, Store, is_uri, open_store, shown
from raydd.io.lock import LOCK, alone

__all__ = ["Store", "copy_buffer", "fetch", "is_uri", "local_folder", "mirror", "open_store", "shown", "written_folder"]

MANIFEST, PREPROCESSING = "manifest.json", "preprocessing.arrow"
UNSENT = "unsent"
"""A file of a mirror in which something is being written, or was when its writer was stopped."""
STREAMS = 4  # files that are fetched at once: an object store limits each, not their sum
Tell = Callable[[str], None]
_EXPERT = re.compile(r"expert-\d{5,}\.arrow")
_EATEN = re.compile(rf"({'|'.join(KNOWN)}):/[^/]")
_FILE = re.compile(rf"{_EXPERT.pattern}|preprocessing\.arrow|manifest\.json")


def mirror(uri: str) -> Path:
    """This node's folder for copies of a store's files; the same whatever credentials the URI has."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", shown(uri).partition("?")[0].rpartition("/")[2]).strip(".") or "buffer"
    return default_cache() / "mirrors" / f"{name}-{hashlib.sha256(shown(uri).encode()).hexdigest()[:12]}"


def fetch(
    uri: str, names: Collection[str] | None = None, *, tell: Tell | None = None, anew: bool = False, keep: bool = False
) -> Path:
    """Bring this node's mirror of a store up to date: what is missing there, or of other bytes.

    One process of a node fetches, the others wait for it. The manifest comes last. Experts that the store has no more
    are removed; those that were never there, since their writer is still to put them, stay.

    Args:
        uri: The store's.
        names: Files to fetch; None fetches all of a buffer's.
        tell: Where a line is told of what was fetched.
        anew: Fetch also what the mirror has.
        keep: Keep what the mirror has of the same buffer, since it is still to be put there.

    Returns:
        The mirror; empty where the store is.

    Raises:
        ValueError: No such kind of store, or this node's disk has no room for the buffer.
        OSError: The store cannot be read.
    """
    store, folder = open_store(uri), mirror(uri)
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder):
        sweep(folder)
        manifest = _manifest(store)  # before the names, so that all that it lists is among them
        there = {name: size for name, size in store.names().items() if _FILE.fullmatch(name)}
        if not manifest:
            there.pop(MANIFEST, None)
        _remove_gone(folder, there, manifest, keep)
        changed = [*there] if anew else _changed(store, folder, there, manifest)
        wanted = sorted((name for name in changed if names is None or name in names), key=_order)
        total = sum(there[name] for name in wanted)
        _check_room(store, folder, total)
        with ThreadPoolExecutor(STREAMS) as pool:  # that raises what the first of them did, and starts no other then
            list(pool.map(lambda name: store.get(name, folder / name), (name for name in wanted if name != MANIFEST)))
        if MANIFEST in wanted:
            write_atomic(folder / MANIFEST, manifest)
    if tell:
        done = f"fetched {len(wanted)} files, {total:,} bytes, into" if wanted else "nothing new to fetch into"
        tell(f"{store.shown}: {done} {folder}")
    return folder


def _manifest(store: Store) -> bytes:
    try:
        return store.read(MANIFEST)
    except FileNotFoundError:
        return b""


def _order(name: str) -> tuple[bool, bool, str]:
    """Experts, preprocessing, manifest: what the manifest lists is there before it."""
    return name == MANIFEST, not _EXPERT.fullmatch(name), name


def _parsed(manifest: bytes) -> tuple[Any, dict[str, str]]:
    """A manifest's spec, and of each file that it lists the checksum; nothing of one that cannot be read."""
    try:
        spec, entries = parse_manifest(manifest, MANIFEST)
        return spec, {entry["file"]: entry["checksum"] for entry in entries.values()}
    except ValueError:
        return None, {}


def _remove_gone(folder: Path, there: Collection[str], manifest: bytes, keep: bool) -> None:
    """Remove what the mirror has of a buffer that is there no more, or of experts that the store has lost.

    A mirror without a manifest is of a node that trains: what it has is still to be put there.
    """
    known = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).exists() else b""
    (before, listed), (now, _) = _parsed(known), _parsed(manifest)
    if keep and now in (None, before):
        return
    other = before not in (None, now)
    for path in filter(lambda path: _FILE.fullmatch(path.name), sorted(folder.iterdir())):
        gone = path.name not in there and (other or path.name in listed)
        if gone or (other and path.name == PREPROCESSING):  # of the same name and size in every buffer
            path.unlink()


def _changed(store: Store, folder: Path, there: dict[str, int], manifest: bytes) -> list[str]:
    """The store's files that the mirror lacks, or has with other bytes."""
    same = (folder / MANIFEST).exists() and (folder / MANIFEST).read_bytes() == manifest
    _, listed = _parsed(manifest)

    def differs(name: str) -> bool:
        path = folder / name
        if not path.exists() or path.stat().st_size != there[name]:
            return True
        if not _EXPERT.fullmatch(name):
            return not same
        own = _own_checksum(path)
        return own is None or own != (listed.get(name) or store.checksum(name))

    return [name for name in there if differs(name)]


def _own_checksum(path: Path) -> str | None:
    try:
        return open_arrow(path).metadata.get("checksum")
    except ValueError:
        return None


def _check_room(store: Store, folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ValueError(
            f"{store.shown} takes {total:,} bytes on this node and {folder} has room for {free:,}: "
            "set RAYDD_CACHE to a folder with more"
        )


def local_folder(place: AnyPath, tell: Tell | None = None, *, anew: bool = False) -> Path:
    """The folder on this node where a buffer can be opened: itself, or of an URI its mirror, brought up to date.

    A ``file://`` URI is of such a folder, and is not copied.

    Args:
        place: A folder or an URI.
        tell: Where a line is told of what was fetched.
        anew: Fetch also what the mirror has, so that it is the store's files that are looked at.

    Raises:
        ValueError: No such kind of store, no buffer there, this node's disk has no room for it, or it has an expert
            that the store lacks, and so would read another buffer than other nodes.
        OSError: The store cannot be read.
    """
    if not is_uri(place):
        if _EATEN.match(os.fspath(place)) and not Path(place).exists():
            raise ValueError(f"{os.fspath(place)!r} was an URI before a Path took one of its slashes: give it as text")
        return Path(place)
    uri = os.fspath(place)
    store = open_store(uri)
    folder = store.local or fetch(uri, tell=tell, anew=anew)
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{shown(uri)} holds no buffer; make one with `raydd experts --out {shown(uri)}`")
    own = {path.name for path in folder.iterdir() if _EXPERT.fullmatch(path.name)}
    if store.local is None and (unsent := sorted(own - store.names().keys())):
        remedy = f"run `raydd experts --out {shown(uri)}` again, which sends it, or delete it"
        raise ValueError(f"{folder / unsent[0]} was trained here and is not at {shown(uri)} yet: {remedy}")
    return folder


@contextlib.contextmanager
def written_folder(place: AnyPath, tell: Tell | None = None) -> Iterator[Path]:
    """A folder to write a buffer into; of an URI its mirror, whose files are put there when the block ends well.

    What a block that was stopped has written is in the folder that the next one gets.

    Args:
        place: A folder or an URI.
        tell: Where a line is told of what was there already.

    Yields:
        The folder, with what the place held.
    """
    own = open_store(os.fspath(place)).local if is_uri(place) else Path(place)
    if own is not None:
        with alone(own, "raydd buffer", tell):
            yield own
        return
    held = mirror(os.fspath(place))
    marker = held / UNSENT
    with alone(held, "raydd buffer", tell):
        folder = fetch(os.fspath(place), tell=tell, keep=marker.exists())
        marker.touch()
        yield folder
        copy_buffer(folder, place, verified=True)
        marker.unlink()


def copy_buffer(
    source: AnyPath, target: AnyPath, tell: Tell | None = None, *, verified: bool = False
) -> dict[str, int]:
    """Copy a buffer's files from one place to another; again, it goes on where it was stopped.

    Only regular files are copied that match their checksum: a link is not followed. The target has first a manifest
    that says what the buffer is of, then the experts, and last a manifest that lists them, beside those that it had.

    Args:
        source: A folder or an URI.
        target: The same.
        tell: Where a line is told of what was fetched.
        verified: This process has just written the files, and the target is where it was told to.

    Returns:
        The bytes that were copied, by file name; the target's other files are as the source's already.

    Raises:
        ValueError: The source is no buffer or damaged, or the target holds another one, or other files.
        OSError: A store cannot be read or written.
    """
    folder = local_folder(source, tell)
    spec, entries = read_manifest(folder)
    store = open_store(os.fspath(target) if is_uri(target) else Path(target).absolute().as_uri())
    if store.local is not None and folder.resolve() in store.local.resolve().parents:
        raise ValueError(f"{store.shown} lies in the buffer that is copied; name another place")
    store.sweep()
    there, sizes = store.names(), dict[str, int]()
    if not verified:
        _check_target(store, there)
    with TemporaryDirectory() as scratch:
        held = Path(scratch) / MANIFEST
        if MANIFEST in there:
            store.get(MANIFEST, held)
        else:
            write_manifest(scratch, spec, [])
        known, others = read_manifest(scratch)
        if difference := known.difference(spec):
            raise ValueError(f"{store.shown} holds another buffer: {difference}; name another place")
        files = _whole_files(folder, verified)
        if MANIFEST not in there:
            store.put(held, MANIFEST)
        for name in sorted(files.keys() - {MANIFEST}, key=_order):
            if there.get(name) != files[name].stat().st_size or not _alike(store, files[name]):
                store.put(files[name], name)
                sizes[name] = files[name].stat().st_size
        write_manifest(scratch, spec, [entry for _, entry in sorted((others | entries).items())])
        store.put(held, MANIFEST)
    return sizes


def _whole_files(folder: Path, verified: bool) -> dict[str, Path]:
    """A buffer's files by name, none of them damaged or a link."""
    files = {path.name: path for path in folder.iterdir() if _FILE.fullmatch(path.name)}
    for path in files.values():
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path} is not a regular file, and links are not followed: put the file itself there")
    if not verified:
        for problem in verify(folder):
            raise ValueError(f"{folder / problem.file} is damaged: {problem.what}")
    return files


def _check_target(store: Store, names: Collection[str]) -> None:
    """Refuse a place that holds anything but a buffer's files."""
    own = store.local
    found = {path.name for path in own.iterdir()} if own is not None and own.is_dir() else {*names}
    found -= {LOCK}  # held by this very command
    if other := sorted(name for name in found if not _FILE.fullmatch(name.removesuffix(".bad"))):
        raise ValueError(f"{store.shown} holds other files, such as {other[0]}: name a new folder, or an empty one")


def _alike(store: Store, path: Path) -> bool:
    """Whether a file of the store, of the same size, is this one."""
    if _EXPERT.fullmatch(path.name):
        own = _own_checksum(path)
        return own is not None and own == store.checksum(path.name)
    return store.read(path.name) == path.read_bytes()
