"""A folder of files at a URI, such as that of a run. Readers always get the files of one moment.

The store is flat. ``folder.json`` lists the folder's files, and for each the object with its bytes. The name of an
object has the checksum of its bytes, so that an object never changes, and the list is written after its objects.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated

from pydantic import AfterValidator, Field

from raydd.io.document import Document, Whole, one_line, parse_document, write_document
from raydd.io.files import AnyPath, sweep
from raydd.io.filesystem import Store, open_store
from raydd.io.lock import LOCK, one_at_a_time
from raydd.io.paths import default_cache
from raydd.io.uri import public_uri

INDEX = "folder.json"
ATTEMPTS = 5
"""How often a reader starts again because the folder was written meanwhile."""
_DIGITS = 16  # of the checksum, in the name of an object
_OBJECT = re.compile(rf".+-([0-9a-f]{{{_DIGITS}}})(\.[^.]*)?")
_SLICE = 8 << 20


def _inside(name: str) -> str:
    """Refuse the name of a file that is not in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or not path.parts:
        raise ValueError(f"{name[:80]!r} is no file of the folder")
    return name


class StoredFile(Document):
    """A file of the folder: its object in the store, and its bytes."""

    object: Annotated[str, Field(pattern=r"^[^/\\\x00]{1,255}$")]
    bytes: Whole
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Index(Document):
    files: dict[Annotated[str, AfterValidator(_inside)], StoredFile]


Files = dict[str, StoredFile]
State = tuple[int, int, int]


class StoredFolder:
    """A folder at a URI, for one writer and any number of readers."""

    def __init__(self, uri: str) -> None:
        self.store: Store = open_store(uri)
        self._files: Files = {}  # as committed last, here
        self._states: dict[str, State] = {}  # of the committed files on this disk
        self._previous: set[str] = set()  # objects of the version before, which a reader may still fetch

    def files(self) -> Files | None:
        """Return the files of the last complete version, by name; None if there is none."""
        try:
            data = self.store.read(INDEX)
        except FileNotFoundError:
            return None
        try:
            return dict(parse_document(data, _Index, always_sealed=True)[0].files)
        except ValueError as error:
            name = self.store.public_uri
            raise ValueError(f"{name}: {INDEX} is damaged ({one_line(error)}); name another URI") from None

    def fetch(self, folder: Path) -> bool:
        """Make a local folder equal to the last complete version; return False if there is none."""
        for attempt in range(1, ATTEMPTS + 1):
            files = self.files()
            if files is None:
                return False
            try:
                self._fetch(files, folder)
            except FileNotFoundError:
                if attempt == ATTEMPTS:
                    raise
                continue
            self._files = files
            self._states = {name: _state(folder / name) for name in files}
            return True
        raise AssertionError

    def _fetch(self, files: Files, folder: Path) -> None:
        for name, file in files.items():
            path = folder / name
            if path.is_file() and path.stat().st_size == file.bytes and _sha256(path) == file.sha256:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            self.store.get(file.object, path)
            if _sha256(path) != file.sha256:
                path.unlink()
                raise ValueError(f"{self.store.public_uri}: {name} is damaged (checksum); restore {file.object}")
        for name in [*files_below(folder)]:
            if name not in files:
                (folder / name).unlink()

    def sweep(self, others: str) -> None:
        """Remove what killed writers left: temporary files, and objects that the last version does not list.

        It is for the only writer, after `fetch`; names with the prefix ``others`` stay. An object is recognised by its
        bytes, so that nobody else's file is removed.
        """
        self.store.sweep(others)
        listed = {file.object for file in self._files.values()}
        for name in self.store.names().keys() - listed:
            match = None if name.startswith(others) else _OBJECT.fullmatch(name)
            with suppress(OSError):  # the credentials may not allow to delete
                if match and hashlib.sha256(self.store.read(name)).hexdigest().startswith(match[1]):
                    self.store.delete(name)

    def commit(self, folder: Path) -> None:
        """Store all files of a local folder as the next version: objects first, then the list."""
        files, states = Files(), dict[str, State]()
        stored = {file.object for file in self._files.values()}
        for name in files_below(folder):
            path = folder / name
            states[name] = _state(path)
            if self._states.get(name) == states[name] and name in self._files:
                files[name] = self._files[name]
                continue
            digest = _sha256(path)
            file = StoredFile(object=_object(name, digest), bytes=states[name][0], sha256=digest)
            if file.object not in stored:
                self.store.put(path, file.object)
                stored.add(file.object)
            files[name] = file
        if files == self._files:
            self._states = states
            return
        with TemporaryDirectory() as scratch:
            index = Path(scratch) / INDEX
            write_document(index, {"files": {name: file.model_dump() for name, file in files.items()}})
            self.store.put(index, INDEX)
        current, before = ({file.object for file in each.values()} for each in (files, self._files))
        for name in self._previous - current - before:
            self.store.delete(name)
        self._previous, self._files, self._states = before - current, files, states


def files_below(folder: Path) -> Iterable[str]:
    """Return the names of the complete regular files of a folder, those that were written last at the end."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    own = [path for path in paths if path.suffix != ".tmp" and not path.name.endswith(LOCK)]
    own.sort(key=lambda path: (path.stat().st_mtime_ns, path))
    return [path.relative_to(folder).as_posix() for path in own]


def stored_copy(location: AnyPath) -> Path:
    """Return this node's copy of a folder at a URI, brought up to date; a ``file://`` URI is read in place.

    Raises:
        FileNotFoundError: There is no folder.
    """
    uri = os.fspath(location)
    stored = StoredFolder(uri)
    if stored.store.local is not None:
        return stored.store.local
    folder = copy_folder(uri, "runs")
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder):
        sweep(folder)
        if not stored.fetch(folder):
            raise FileNotFoundError(f"{public_uri(uri)} holds no folder of raydd: it has no {INDEX}")
    return folder


def copy_folder(uri: str, kind: str) -> Path:
    """Return the cache's folder for copies of a store's files; credentials in the URI do not change it."""
    address = public_uri(uri)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", address.partition("?")[0].rpartition("/")[2]).strip(".") or "folder"
    return default_cache() / kind / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


def _object(name: str, digest: str) -> str:
    """Return the name of an object: readable, and different for different bytes."""
    path = PurePosixPath(name)
    return f"{path.stem[:100]}-{digest[:_DIGITS]}{path.suffix}"


def _state(path: Path) -> State:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_SLICE):
            digest.update(data)
    return digest.hexdigest()
