"""Folders of plain files at a URI: object stores and the other file systems of `pyarrow.fs`.

A URI may hold credentials; nothing here prints or saves them.
"""

import contextlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from raydd.io.files import AnyPath, atomic_path, sweep
from raydd.io.uri import SCHEMES, public_uri, scheme_of, without_secrets

OBJECT_STORES = ("s3", "gs", "gcs")
CHUNK = 32 << 20  # bytes of one write to a store
PIECE = 8 << 20  # bytes of one read
READS = 3  # of a small file that changes meanwhile
MOST_COPIED = 5 << 30  # bytes that S3 copies in one request
STALE_SECONDS = 24 * 3600  # after this, a temporary file's writer is taken for dead


class _Changed(OSError):
    """A file that could be opened, and still can, but not be read."""


@dataclass(frozen=True, repr=False)
class Store:
    """A folder of plain files at a URI; made by `open_store`, pickles as its URI.

    Attributes:
        uri: With its credentials, if it has any; messages use `public_uri`.
    """

    uri: str

    def __repr__(self) -> str:
        return f"Store({self.public_uri!r})"

    def __reduce__(self) -> tuple[Callable[[str], "Store"], tuple[str]]:
        return open_store, (self.uri,)

    @property
    def public_uri(self) -> str:
        """The URI without credentials."""
        return public_uri(self.uri)

    @property
    def scheme(self) -> str:
        """One of `SCHEMES`."""
        return scheme_of(self.uri)

    @property
    def local(self) -> Path | None:
        """The folder on this node of a ``file://`` URI; None for others."""
        return Path(self._system[1]) if self.scheme == "file" else None

    @property
    def system(self) -> Any:
        """The file system of `pyarrow.fs`."""
        return self._system[0]

    @property
    def path(self) -> str:
        """The folder's path in its file system."""
        return str(self._system[1])

    @cached_property
    def _system(self) -> tuple[Any, str]:
        """The file system, and the folder's path there; asks the network where an S3 URI has no region."""
        from pyarrow.fs import FileSystem

        uri = self.uri
        if self.scheme in ("gs", "gcs") and "retry_limit_seconds" not in uri:  # the default is 15 minutes
            uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds=30"
        with self._errors("be opened"):
            system, path = FileSystem.from_uri(uri)
        return system, path.rstrip("/")

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn an error of the file system into one line, without a cause that might hold secrets."""
        try:
            yield
        except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
            kind = next((one for one in (FileNotFoundError, ValueError) if isinstance(error, one)), OSError)
            remedy = {
                FileNotFoundError: "",
                ValueError: "; quote special characters in it: / is %2F",
                OSError: "; check its name, the credentials and the network",
            }[kind]
            reason = without_secrets(str(error), self.uri)
            raise kind(f"{self.public_uri} cannot {what} ({reason}){remedy}") from None

    def _path(self, name: str) -> str:
        assert name == Path(name).name, f"{name!r} is no plain file name"
        return f"{self._system[1]}/{name}"

    def names(self) -> dict[str, int]:
        """Return the complete files directly in the folder, with their bytes; empty if the folder does not exist."""
        return {info.base_name: info.size for info in self._infos() if not info.base_name.endswith(".tmp")}

    def times(self, prefix: str) -> dict[str, float]:
        """Return when complete files whose names start with a prefix were written, in seconds of the store's clock."""
        infos = [info for info in self._infos() if not info.base_name.endswith(".tmp")]
        return {info.base_name: info.mtime.timestamp() for info in infos if info.base_name.startswith(prefix)}

    def _infos(self) -> list[Any]:
        from pyarrow.fs import FileSelector, FileType

        system, path = self._system
        with self._errors("be listed"):
            infos = system.get_file_info(FileSelector(path, allow_not_found=True))
            if not infos and self.scheme in OBJECT_STORES:
                bucket = path.partition("/")[0]
                if system.get_file_info(bucket).type == FileType.NotFound:
                    raise OSError(f"there is no bucket {bucket}")
        return [info for info in infos if info.type == FileType.File]

    def put(self, local: AnyPath, name: str) -> None:
        """Copy a local file to the store under a name; readers see all of it or what was there before.

        The file is written under a temporary name first. File systems then rename it. Object stores copy it on their
        side, because pyarrow completes an upload even where it fails. S3 copies no more than `MOST_COPIED` bytes in
        one request, so that a larger file is written in place and removed if it fails.
        """
        target = self._path(name)
        if self.scheme == "file":
            with atomic_path(target) as temporary:
                shutil.copyfile(local, temporary)
            return
        system, folder = self._system
        with open(local, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            direct = self.scheme == "s3" and size > MOST_COPIED
            writer = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
            path = target if direct else f"{target}.{writer}.tmp"
            try:
                if self.scheme == "hdfs":
                    with self._errors("be written"):
                        system.create_dir(folder, recursive=True)
                self._write(file, size, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    system.delete_file(path)
                raise
        if not direct:
            self._rename(path, name)

    def _write(self, file: BinaryIO, size: int, path: str) -> None:
        """Write a local file of a known size to a path of the store."""
        with self._errors("be written"):
            stream = self._system[0].open_output_stream(path)
        try:
            while data := file.read(CHUNK):
                with self._errors("be written"):
                    stream.write(data)
                    if self.scheme == "s3" and size > CHUNK:
                        stream.flush()  # otherwise all parts wait in memory
            if file.tell() != size:
                raise OSError(f"the file changed while it was copied to {self.public_uri}: copy it again")
        except BaseException:
            with contextlib.suppress(Exception):
                stream.close()
            raise
        with self._errors("be written"):
            stream.close()

    def _rename(self, temporary: str, name: str) -> None:
        system, target = self._system[0], self._path(name)
        if self.scheme == "hdfs":
            self.delete(name)  # HDFS does not rename to a name that exists
        try:
            with self._errors("be written"):
                (system.move if self.scheme == "hdfs" else system.copy_file)(temporary, target)
        finally:
            with contextlib.suppress(OSError):  # HDFS has moved it; the credentials may not allow to delete
                system.delete_file(temporary)

    def get(self, name: str, local: AnyPath) -> Path:
        """Copy a file of the store to a local path, whole or not at all."""
        with atomic_path(local) as temporary, open(temporary, "wb") as file:
            file.writelines(self._chunks(name))
        return Path(local)

    def read(self, name: str) -> bytes:
        """Return a small file's bytes, also where another process replaces it meanwhile; see `get` for errors."""
        for _ in range(READS - 1):
            with contextlib.suppress(_Changed):
                return b"".join(self._chunks(name))
        return b"".join(self._chunks(name))

    def _open(self, name: str) -> Any:
        with self._errors("be read"):
            return self._system[0].open_input_file(self._path(name))

    def _chunks(self, name: str) -> Iterator[bytes]:
        with contextlib.closing(self._open(name)) as file:
            with self._errors("be read"):
                left, version = file.size(), self._version(file)
            while left:
                with self._unless_removed(name), self._errors("be read"):
                    data = file.read(min(left, PIECE))
                    if not data:
                        raise OSError(f"{name} ended {left} bytes early")
                left -= len(data)
                yield data
        if version is not None:
            with contextlib.closing(self._open(name)) as file:
                if self._version(file) != version:  # where it became shorter, pyarrow has filled the rest with anything
                    raise _Changed(f"{self.public_uri}: {name} changed while it was read: try again")

    def _version(self, file: Any) -> Any:
        """Return what S3 calls a version of an open file; None elsewhere, where one version is read to its end."""
        return file.metadata().get("ETag") if self.scheme == "s3" else None

    @contextlib.contextmanager
    def _unless_removed(self, name: str) -> Iterator[None]:
        """Raise `FileNotFoundError` for an error of reading a file that was removed after it was opened."""
        try:
            yield
        except OSError as error:
            self._open(name).close()  # S3's own error is an internal failure
            raise _Changed(str(error)) from None

    def checksum(self, name: str) -> str | None:
        """Return the checksum in an Arrow file's metadata, from its last bytes alone; None if it cannot be read."""
        import pyarrow as pa

        with contextlib.closing(self._open(name)) as file:
            try:
                return str((pa.ipc.open_file(file).schema.metadata or {})[b"checksum"], "ascii")
            except (KeyError, ValueError, pa.ArrowException):
                return None

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError), self._errors("be changed"):
            self._system[0].delete_file(self._path(name))

    def sweep(self, others: str | None = None) -> None:
        """Remove the temporary files of dead writers.

        A writer is taken for dead after a day; at once, where the caller writes alone but for names with the prefix
        ``others``.
        """
        if self.scheme == "file":
            sweep(self._system[1])
            return
        for info in self._infos():
            alone = others is not None and not info.base_name.startswith(others)
            old = time.time() - info.mtime.timestamp() > STALE_SECONDS
            if info.base_name.endswith(".tmp") and (alone or old):
                with contextlib.suppress(OSError):  # the credentials may not allow to delete
                    self.delete(info.base_name)


def open_store(uri: str) -> Store:
    """Return the store of a URI; the network is asked at the first use."""
    if scheme_of(uri) not in SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"{public_uri(uri)} is not a location for a buffer: use a folder, or a URI of {schemes}")
    return Store(uri)
