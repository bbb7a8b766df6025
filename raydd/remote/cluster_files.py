"""Files of the driver's folder, or of a URI, for all nodes of a cluster, as a file system of `pyarrow.fs`.

A node that sees the driver's folder uses it directly. Other nodes read and write it through an actor on the driver's
node. Credentials in a URI stay in that actor's memory: the file system is pickled as a reference to the actor.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, LocalFileSystem, PyFileSystem
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydd.io.files import temporary_path
from raydd.io.filesystem import open_store

CHUNK = 4 << 20
"""Bytes of a file in one message."""


class FolderServer:
    """Reads and writes files on the driver's node for nodes that do not see its folder."""

    def __init__(self, location: str, token: Path | None, content: str) -> None:
        self._location, self._token, self._content = location, token, content
        self._system = LocalFileSystem()

    def source(self) -> tuple[str, Path | None, str]:
        """Return the location, and a file and its content by which a node recognises the driver's folder."""
        return self._location, self._token, self._content

    def _check(self, *paths: str) -> None:
        for path in paths:
            if not Path(os.path.normpath(path)).is_relative_to(self._location):
                raise PermissionError(f"{path} is not below {self._location}")

    def change(self, what: str, *paths: str, **options: Any) -> None:
        """Call a method of the file system that returns nothing."""
        self._check(*paths)
        getattr(self._system, what)(*paths, **options)

    def info(self, paths: list[str]) -> list[tuple[Any, ...]]:
        """Return the information about some paths."""
        self._check(*paths)
        return [_plain(info) for info in self._system.get_file_info(paths)]

    def select(self, path: str, missing_ok: bool, recursive: bool) -> list[tuple[Any, ...]]:
        """Return the information about what a folder holds."""
        self._check(path)
        return [_plain(info) for info in self._system.get_file_info(FileSelector(path, missing_ok, recursive))]

    def read(self, path: str, start: int, count: int) -> bytes:
        """Return a part of a file."""
        self._check(path)
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(count)

    def begin(self, path: str) -> str:
        """Return the path of a temporary file that `finish` renames."""
        self._check(path)
        return str(temporary_path(path))

    def append(self, temporary: str, data: bytes) -> None:
        """Write bytes to the end of a temporary file."""
        self._check(temporary)
        with open(temporary, "ab") as file:
            file.write(data)

    def finish(self, temporary: str, path: str) -> None:
        """Give a complete file its name."""
        self._check(temporary, path)
        with open(temporary, "ab") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _plain(info: FileInfo) -> tuple[Any, ...]:
    return info.path, int(info.type), info.size, info.mtime_ns


def _info(plain: tuple[Any, ...]) -> FileInfo:
    path, kind, size, changed = plain
    return FileInfo(path, FileType(kind), size=size, mtime_ns=changed)


class _Reader(io.RawIOBase):
    """A file of the driver's node."""

    def __init__(self, call: Callable[..., Any], path: str, size: int) -> None:
        super().__init__()
        self._call, self._path, self._size, self._at = call, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._call("read", self._path, self._at, min(len(buffer), CHUNK))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Writer(io.RawIOBase):
    """A file that gets its name on the driver's node when it is closed."""

    def __init__(self, call: Callable[..., Any], path: str) -> None:
        super().__init__()
        self._call, self._path, self._temporary = call, path, call("begin", path)
        call("append", self._temporary, b"")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(memoryview(data)[:CHUNK])
        self._call("append", self._temporary, part)
        return len(part)

    def close(self) -> None:
        if not self.closed:
            self._call("finish", self._temporary, self._path)
        super().close()


class _Files(FileSystemHandler):  # type: ignore[misc]
    """The file system of the driver's location on any node."""

    def __init__(self, server: Any) -> None:
        self._server, self._known = server, list[Any]()

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return _Files, (self._server,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Files) and self._server == other._server

    def __hash__(self) -> int:
        return hash(self._server)

    @property
    def _direct(self) -> Any:
        """The file system of this node that reaches the location; None where only the driver's node does."""
        if not self._known:
            location, token, content = ray.get(self._server.source.remote())
            if token is None:
                self._known.append(open_store(location).system)
            else:
                self._known.append(LocalFileSystem() if sees(token, content) else None)
        return self._known[0]

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        return ray.get(getattr(self._server, method).remote(*arguments, **options))

    def _change(self, what: str, *arguments: Any, **options: Any) -> None:
        if (direct := self._direct) is not None:
            getattr(direct, what)(*arguments, **options)
        else:
            self._call("change", what, *arguments, **options)

    def get_type_name(self) -> str:
        return "raydd"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        if (direct := self._direct) is not None:
            return list(direct.get_file_info(paths))
        return [_info(plain) for plain in self._call("info", list(paths))]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        if (direct := self._direct) is not None:
            return list(direct.get_file_info(selector))
        options = (selector.base_dir, selector.allow_not_found, selector.recursive)
        return [_info(plain) for plain in self._call("select", *options)]

    def create_dir(self, path: str, recursive: bool) -> None:
        self._change("create_dir", path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._change("delete_dir", path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._change("delete_dir_contents", path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise ValueError("a search never empties a whole file system")

    def delete_file(self, path: str) -> None:
        self._change("delete_file", path)

    def move(self, src: str, dest: str) -> None:
        self._change("move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._change("copy_file", src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> Any:
        if (direct := self._direct) is not None:
            return direct.open_input_file(path)
        (info,) = self.get_file_info([path])
        if info.type != FileType.File:
            raise FileNotFoundError(path)
        return pa.PythonFile(io.BufferedReader(_Reader(self._call, path, info.size), CHUNK), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        if (direct := self._direct) is not None:
            return direct.open_output_stream(path, metadata=metadata)
        return pa.PythonFile(io.BufferedWriter(_Writer(self._call, path), CHUNK), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise io.UnsupportedOperation("files of a search are written whole")


def sees(token: Path | None, content: str) -> bool:
    """Return whether this node sees the driver's folder: the token file in it, and not one of another folder."""
    try:
        return token is not None and token.read_text(encoding="ascii") == content
    except OSError:
        return False


def serve_files(location: str, token: Path | None, content: str) -> Any:
    """Return the file system of a folder or a URI for all nodes; it works while its actor lives, on this node."""
    here = ray.get_runtime_context().get_node_id()
    affinity = NodeAffinitySchedulingStrategy(here, soft=False)
    options = {"num_cpus": 0, "max_concurrency": 4, "max_restarts": -1, "max_task_retries": -1}
    server = ray.remote(FolderServer).options(scheduling_strategy=affinity, **options).remote(location, token, content)
    return PyFileSystem(_Files(server))
