"""Folders of plain files at an URI: object stores and the other file systems of `pyarrow.fs`.

Credentials may stand in an URI; nothing here shows or saves them.
"""

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from raydd.io.files import AnyPath, atomic_path, sweep

KNOWN = ("s3", "gs", "gcs", "hdfs", "file")
CHUNK = 32 * 2**20  # bytes of a file that are on their way there at once
PIECE = 8 * 2**20  # and on their way back
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SHOWN = ("endpoint_override", "region", "scheme")  # the only parts of a query that never hold a secret
_STALE_SECONDS = 24 * 3600  # a writer to HDFS is taken for dead after this long
_REMEDY = "check its name, the credentials and the network"


def is_uri(place: AnyPath) -> bool:
    """Whether a place is an URI, such as ``s3://bucket/folder``, and no path.

    >>> is_uri("s3://bucket/digits"), is_uri("runs/digits")
    (True, False)
    """
    return _SCHEME.match(os.fspath(place)) is not None


def shown(uri: str) -> str:
    """An URI without what is secret in it, as messages and files may hold it; a path as it is.

    >>> shown("s3://key:secret@bucket/digits/?region=eu-west-1&session=abc")
    's3://bucket/digits?region=eu-west-1'
    """
    if not is_uri(uri):
        return uri
    head, _, query = uri.partition("?")
    scheme, _, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    if ":" in host and "@" not in host and "@" in path:  # a secret with a slash that was not quoted
        host, slash, path = path.rpartition("@")[2].partition("/")
    kept = [(key, _bare(value)) for key, value in sorted(parse_qsl(query)) if key in _SHOWN]
    place = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")
    return f"{place}?{urlencode(kept, safe=':/')}" if kept else place


def _bare(address: str) -> str:
    return address.rpartition("@")[2]


def _scrubbed(reason: str, uri: str) -> str:
    """A message of the file system, in one line and without the URI's secrets."""
    text = " ".join(reason.split()).replace(uri, shown(uri))
    with contextlib.suppress(ValueError):
        parts = urlsplit(uri)
        values = [value for key, value in parse_qsl(parts.query) if key not in _SHOWN]
        for secret in (word for word in (parts.password, parts.username, *values) if word and len(word) > 5):
            text = text.replace(secret, "***").replace(unquote(secret), "***")
    return text if len(text) <= 400 else f"{text[:400]}..."


@dataclass(frozen=True, repr=False)
class Store:
    """A folder of plain files at an URI; made by `open_store`, pickles as its URI.

    Attributes:
        uri: With its credentials, if it has any; `shown` is what may be told.
    """

    uri: str

    def __repr__(self) -> str:
        return f"Store({self.shown!r})"

    def __reduce__(self) -> tuple[Callable[[str], "Store"], tuple[str]]:
        return open_store, (self.uri,)

    @property
    def shown(self) -> str:
        """The URI without credentials."""
        return shown(self.uri)

    @property
    def scheme(self) -> str:
        """Which kind of store it is: one of `KNOWN`."""
        return self.uri.partition("://")[0].lower()

    @property
    def local(self) -> Path | None:
        """The folder itself where it is one of this node's file system; None elsewhere."""
        return Path(self._opened[1]) if self.scheme == "file" else None

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, and the folder's path there; asks the network where an S3 URI says no region."""
        from pyarrow.fs import FileSystem

        uri = self.uri
        if self.scheme in ("gs", "gcs") and "retry_limit_seconds" not in uri:  # else it tries for 15 minutes
            uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds=30"
        with self._told("be opened"):
            system, path = FileSystem.from_uri(uri)
        return system, path.rstrip("/")

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turns what the file system raises into one line, without a cause that might show secrets."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.shown} cannot {what} ({_scrubbed(str(error), self.uri)})") from None
        except ValueError as error:
            reason = _scrubbed(str(error), self.uri)
            raise ValueError(f"{self.shown} cannot {what} ({reason}); quote what is special in it: / is %2F") from None
        except (OSError, RuntimeError, NotImplementedError) as error:
            reason = _scrubbed(str(error), self.uri)
            raise OSError(f"{self.shown} cannot {what} ({reason}); {_REMEDY}") from None

    def _path(self, name: str) -> str:
        assert name == Path(name).name, f"{name!r} is no plain file name"
        return f"{self._opened[1]}/{name}"

    def names(self) -> dict[str, int]:
        """The whole files directly in the folder, with their bytes; none where there is no such folder.

        Raises:
            OSError: No such bucket, no right to list it, or no answer.
        """
        return {info.base_name: info.size for info in self._infos() if not info.base_name.endswith(".tmp")}

    def _infos(self) -> list[Any]:
        from pyarrow.fs import FileSelector, FileType

        system, path = self._opened
        with self._told("be listed"):
            infos = system.get_file_info(FileSelector(path, allow_not_found=True))
            if not infos and self.scheme in ("s3", "gs", "gcs"):
                bucket = path.partition("/")[0]
                if system.get_file_info(bucket).type == FileType.NotFound:
                    raise OSError(f"there is no bucket {bucket}")
        return [info for info in infos if info.type == FileType.File]

    def put(self, local: AnyPath, name: str) -> None:
        """Copy a local file there, under a name; readers see all of it or what was there before.

        Object stores show an object once it is complete; file systems get a temporary file that is renamed.

        Raises:
            FileNotFoundError: There is no such local file.
            OSError: No right to write, no such bucket, or no answer.
        """
        if self.scheme == "file":
            with atomic_path(self._path(name)) as temporary:
                shutil.copyfile(local, temporary)
        elif self.scheme == "hdfs":
            self._put_renamed(local, name)
        else:
            self._put_object(local, self._path(name))

    def _put_renamed(self, local: AnyPath, name: str) -> None:
        system, folder = self._opened
        temporary = f"{self._path(name)}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        with self._told("be written"):
            system.create_dir(folder, recursive=True)
        try:
            self._put_object(local, temporary)
            self.delete(name)  # HDFS renames to no name that is taken
            with self._told("be written"):
                system.move(temporary, self._path(name))
        except BaseException:
            with contextlib.suppress(Exception):
                system.delete_file(temporary)
            raise

    def _put_object(self, local: AnyPath, path: str) -> None:
        streams: list[Any] = []
        with open(local, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                with self._told("be written"):
                    # In one step: what is opened and not kept would be closed, and so become an empty object.
                    streams.extend(map(self._opened[0].open_output_stream, [path]))
                while data := file.read(CHUNK):
                    with self._told("be written"):
                        streams[0].write(data)
                        if self.scheme == "s3" and size > CHUNK:
                            streams[0].flush()  # else all parts wait in memory
                if file.tell() != size:
                    raise OSError(f"{local} changed while it was copied to {self.shown}: do it again")
                with self._told("be written"):
                    streams[0].close()
            except BaseException:
                _abandon(streams)
                raise

    def get(self, name: str, local: AnyPath) -> Path:
        """Copy a file from there to a local path, whole or not at all.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: No right to read, or no answer.
        """
        with atomic_path(local) as temporary, open(temporary, "wb") as file:
            for data in self._chunks(name):
                file.write(data)
        return Path(local)

    def read(self, name: str) -> bytes:
        """A small file's bytes.

        Raises:
            OSError: As of `get`.
        """
        return b"".join(self._chunks(name))

    def _chunks(self, name: str) -> Iterator[bytes]:
        with self._told("be read"):
            file = self._opened[0].open_input_file(self._path(name))
            left = file.size()
        with contextlib.closing(file):
            while left:
                with self._told("be read"):
                    data = file.read(min(left, PIECE))
                    if not data:
                        raise OSError(f"{name} ended {left} bytes early")
                left -= len(data)
                yield data

    def checksum(self, name: str) -> str | None:
        """The checksum that an Arrow file tells of itself, from its last bytes alone; None where it cannot be read."""
        import pyarrow as pa

        with self._told("be read"):
            file = self._opened[0].open_input_file(self._path(name))
        with contextlib.closing(file):
            try:
                return str((pa.ipc.open_file(file).schema.metadata or {})[b"checksum"], "ascii")
            except (KeyError, ValueError, pa.ArrowException):
                return None

    def delete(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            OSError: No right to, or no answer.
        """
        with contextlib.suppress(FileNotFoundError), self._told("be changed"):
            self._opened[0].delete_file(self._path(name))

    def sweep(self) -> None:
        """Remove the temporary files of dead writers; object stores have none."""
        if self.scheme == "file":
            sweep(self._opened[1])
        elif self.scheme == "hdfs":
            for info in self._infos():
                if info.base_name.endswith(".tmp") and time.time() - info.mtime.timestamp() > _STALE_SECONDS:
                    self.delete(info.base_name)


def _abandon(streams: list[Any]) -> None:
    """Leave output streams open for good.

    Closing completes the upload, and so does collecting: what there is so far would be taken for the whole. What was
    sent of it is never seen; a bucket's rule on incomplete uploads removes it.
    """
    for stream in streams:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))


def open_store(uri: str) -> Store:
    """The store of an URI; the network is asked at the first use.

    Raises:
        ValueError: It is no URI of a kind that is known.
    """
    match = _SCHEME.match(uri)
    if match is None or match[1].lower() not in KNOWN:
        known = ", ".join(f"{scheme}://" for scheme in KNOWN)
        raise ValueError(f"{shown(uri) if match else uri} is no place for a buffer: use a folder, or one of {known}")
    return Store(uri)
