"""Buffers at a URI, and each node's copy of them.

A store holds the files of a buffer's folder, byte by byte. `fetch` brings them to this node's mirror, a folder of the
cache, where they can be memory-mapped.
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

from raydd.buffer.manifest import parse_manifest, read_manifest, write_manifest
from raydd.buffer.verification import check_whole
from raydd.io.arrow_file import open_arrow
from raydd.io.files import AnyPath, sweep, write_atomic
from raydd.io.filesystem import Store, open_store
from raydd.io.lock import LOCK, alone, one_at_a_time
from raydd.io.paths import default_cache
from raydd.io.uri import SCHEMES, is_uri, public_uri

MANIFEST, PREPROCESSING = "manifest.json", "preprocessing.arrow"
UNSENT = "unsent"
"""A file of a mirror that something is being written into, or was when its writer was stopped."""
STREAMS = 4  # files that are fetched at once: an object store limits each, not their sum
Tell = Callable[[str], None]
_EXPERT = re.compile(r"expert-\d{5,}\.arrow")
_BROKEN_URI = re.compile(rf"({'|'.join(SCHEMES)}):/[^/]")
_FILE = re.compile(rf"{_EXPERT.pattern}|preprocessing\.arrow|manifest\.json")


def mirror(uri: str) -> Path:
    """Return this node's folder for copies of a store's files; credentials in the URI do not change it."""
    address = public_uri(uri)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", address.partition("?")[0].rpartition("/")[2]).strip(".") or "buffer"
    return default_cache() / "mirrors" / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


def fetch(
    uri: str, names: Collection[str] | None = None, *, tell: Tell | None = None, anew: bool = False, keep: bool = False
) -> Path:
    """Fetch into this node's mirror what it lacks of a store, or has with other bytes.

    One process of a node fetches, the others wait for it. The manifest comes last. Experts that the store has lost
    are removed from the mirror; those that it never had, because their writer has not sent them yet, stay.

    Args:
        uri: The store's.
        names: Files to fetch; None fetches all of a buffer's.
        tell: Takes a line on what was fetched.
        anew: Fetch files that the mirror has, too.
        keep: Keep the mirror's files of the same buffer, because they have not been sent yet.

    Returns:
        The mirror; empty where the store is.
    """
    store, folder = open_store(uri), mirror(uri)
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder):
        sweep(folder)
        try:
            manifest = store.read(MANIFEST)  # before the names, so that all that it lists is among them
        except FileNotFoundError:
            manifest = b""
        there = {name: size for name, size in store.names().items() if _FILE.fullmatch(name)}
        if not manifest:
            there.pop(MANIFEST, None)
        _remove_lost(folder, there, manifest, keep)
        changed = [*there] if anew else _changed(store, folder, there, manifest)
        wanted = sorted((name for name in changed if names is None or name in names), key=_order)
        total = sum(there[name] for name in wanted)
        if total > (free := shutil.disk_usage(folder).free):
            raise ValueError(
                f"{store.public_uri} takes {total:,} bytes on this node and {folder} has room for {free:,}: "
                "set RAYDD_CACHE to a folder with more"
            )
        with ThreadPoolExecutor(STREAMS) as pool:  # the first error ends it, and no other file is begun
            list(pool.map(lambda name: store.get(name, folder / name), (name for name in wanted if name != MANIFEST)))
        if MANIFEST in wanted:
            write_atomic(folder / MANIFEST, manifest)
    if tell:
        done = f"fetched {len(wanted)} files, {total:,} bytes, into" if wanted else "nothing new to fetch into"
        tell(f"{store.public_uri}: {done} {folder}")
    return folder


def _order(name: str) -> tuple[bool, bool, str]:
    """Sort experts, preprocessing, manifest: what the manifest lists exists before it."""
    return name == MANIFEST, not _EXPERT.fullmatch(name), name


def _parse(manifest: bytes) -> tuple[Any, dict[str, str]]:
    """Return a manifest's spec, and its files' checksums; nothing of a manifest that cannot be read."""
    try:
        spec, entries = parse_manifest(manifest, MANIFEST)
        return spec, {entry["file"]: entry["checksum"] for entry in entries.values()}
    except ValueError:
        return None, {}


def _own_manifest(folder: Path) -> bytes:
    return (folder / MANIFEST).read_bytes() if (folder / MANIFEST).exists() else b""


def _remove_lost(folder: Path, there: Collection[str], manifest: bytes, keep: bool) -> None:
    """Remove the mirror's files of a buffer that the store has replaced, and the experts that the store has lost.

    A mirror without a manifest belongs to a node that trains: its experts have not been sent yet.
    """
    (before, listed), (now, _) = _parse(_own_manifest(folder)), _parse(manifest)
    if keep and now in (None, before):
        return
    replaced = before not in (None, now)
    for path in filter(lambda path: _FILE.fullmatch(path.name), sorted(folder.iterdir())):
        lost = path.name not in there and (replaced or path.name in listed)
        if lost or (replaced and path.name == PREPROCESSING):  # which has one name and size in every buffer
            path.unlink()


def _changed(store: Store, folder: Path, there: dict[str, int], manifest: bytes) -> list[str]:
    """Return the store's files that the mirror lacks, or has with other bytes."""
    same, (_, listed) = manifest and _own_manifest(folder) == manifest, _parse(manifest)

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


def local_folder(location: AnyPath, tell: Tell | None = None, *, anew: bool = False) -> Path:
    """Return the folder on this node where a buffer can be opened; a URI's mirror is brought up to date first.

    A ``file://`` URI is opened in place.

    Args:
        location: A folder or a URI.
        tell: Takes a line on what was fetched.
        anew: Fetch files that the mirror has, too, in order to look at the store's.
    """
    if not is_uri(location):
        if _BROKEN_URI.match(os.fspath(location)) and not Path(location).exists():
            text = os.fspath(location)
            raise ValueError(f"{text!r} was a URI before a Path took one of its slashes: give it as text")
        return Path(location)
    uri = os.fspath(location)
    store, name = open_store(uri), public_uri(uri)
    folder = store.local or fetch(uri, tell=tell, anew=anew)
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{name} holds no buffer; make one with `raydd experts --out {name}`")
    own = {path.name for path in folder.iterdir() if _EXPERT.fullmatch(path.name)}
    if store.local is None and (unsent := sorted(own - store.names().keys())):
        remedy = f"run `raydd experts --out {name}` again, which sends it, or delete it"
        raise ValueError(f"{folder / unsent[0]} was trained here and is not at {name} yet: {remedy}")
    return folder


@contextlib.contextmanager
def written_folder(location: AnyPath, tell: Tell | None = None) -> Iterator[Path]:
    """Yield a folder to write a buffer into; of a URI its mirror, which is sent when the block ends without an error.

    The files of a block that was stopped are in the folder that the next one gets.
    """
    own = open_store(os.fspath(location)).local if is_uri(location) else Path(location)
    if own is not None:
        with alone(own, "raydd buffer", tell):
            yield own
        return
    folder = mirror(os.fspath(location))
    marker = folder / UNSENT
    with alone(folder, "raydd buffer", tell):
        fetch(os.fspath(location), tell=tell, keep=marker.exists())
        marker.touch()
        yield folder
        copy_buffer(folder, location, verified=True)
        marker.unlink()


def copy_buffer(
    source: AnyPath, target: AnyPath, tell: Tell | None = None, *, verified: bool = False
) -> dict[str, int]:
    """Copy a buffer's files from one location to another; a second call continues where the first was stopped.

    Only regular files that match their checksum are copied: links are not followed. The target first gets a manifest
    that says what the buffer is of, then the experts, and last a manifest that lists them beside its own.

    Args:
        source: A folder or a URI.
        target: The same.
        tell: Takes a line on what was fetched.
        verified: This process has just written the files, and has checked the target.

    Returns:
        The bytes of the copied files by name; the target's other files are equal to the source's already.
    """
    folder = local_folder(source, tell)
    spec, entries = read_manifest(folder)
    store = open_store(os.fspath(target) if is_uri(target) else Path(target).absolute().as_uri())
    if store.local is not None and folder.resolve() in store.local.resolve().parents:
        raise ValueError(f"{store.public_uri} lies in the buffer that is copied; name another folder")
    store.sweep()
    there, sizes = store.names(), dict[str, int]()
    if not verified:
        _check_target(store, there)
    with TemporaryDirectory() as scratch:
        manifest = Path(scratch) / MANIFEST
        if MANIFEST in there:
            store.get(MANIFEST, manifest)
        else:
            write_manifest(scratch, spec, [])
        other, others = read_manifest(scratch)
        if difference := other.difference(spec):
            raise ValueError(f"{store.public_uri} holds another buffer: {difference}; name another folder or URI")
        files = _complete_files(folder, verified)
        if MANIFEST not in there:
            store.put(manifest, MANIFEST)
        for name in sorted(files.keys() - {MANIFEST}, key=_order):
            if there.get(name) != files[name].stat().st_size or not _alike(store, files[name]):
                store.put(files[name], name)
                sizes[name] = files[name].stat().st_size
        write_manifest(scratch, spec, [entry for _, entry in sorted((others | entries).items())])
        store.put(manifest, MANIFEST)
    return sizes


def _complete_files(folder: Path, verified: bool) -> dict[str, Path]:
    """Return a buffer's files by name, none of them damaged or a link."""
    files = {path.name: path for path in folder.iterdir() if _FILE.fullmatch(path.name)}
    for path in files.values():
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path} is not a regular file, and links are not followed: put the file itself there")
    if not verified:
        check_whole(folder)
    return files


def _check_target(store: Store, names: Collection[str]) -> None:
    """Refuse a location that holds anything but a buffer's files."""
    own = store.local
    present = {path.name for path in own.iterdir()} if own is not None and own.is_dir() else {*names}
    present -= {LOCK}  # held by this very command
    if other := sorted(name for name in present if not _FILE.fullmatch(name.removesuffix(".bad"))):
        raise ValueError(
            f"{store.public_uri} holds other files, such as {other[0]}: name a new folder, or an empty one"
        )


def _alike(store: Store, path: Path) -> bool:
    """Return whether a file of the store, of the same size, is equal to a local one."""
    if _EXPERT.fullmatch(path.name):
        own = _own_checksum(path)
        return own is not None and own == store.checksum(path.name)
    return store.read(path.name) == path.read_bytes()
