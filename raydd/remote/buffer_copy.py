"""A whole buffer on a node that does not have its folder, as a folder there."""

from pathlib import Path
from typing import NamedTuple

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.mirror import MANIFEST, PREPROCESSING
from raydd.io.files import sweep, write_atomic
from raydd.io.lock import one_at_a_time
from raydd.remote.buffer_store import RemoteBuffer, share


class BufferCopy(NamedTuple):
    """A buffer that any node of the cluster can open as a folder; made by `buffer_copy`."""

    buffer: ArrowBuffer
    files: dict[str, bytes]  # the manifest and the preprocessing

    def folder(self) -> Path:
        """Return the buffer's folder on this node: its own, where the node has it, else a copy in the cache."""
        buffer = self.buffer
        if not isinstance(buffer, RemoteBuffer):
            return buffer.folder
        if all(_holds(buffer.folder / name, data) for name, data in self.files.items()):
            return buffer.folder
        copies = buffer.copies
        copies.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(copies):
            sweep(copies)
            buffer.copy_experts(copies)
            for name in (PREPROCESSING, MANIFEST):  # the manifest last: what it lists is there
                if not _holds(copies / name, self.files[name]):
                    write_atomic(copies / name, self.files[name])
        return copies


def buffer_copy(folder: Path) -> tuple[BufferCopy, str]:
    """Return a buffer for one worker anywhere on the connected cluster, and a note about how its node reads it."""
    shared = share(ArrowBuffer(folder))
    files = {name: (folder / name).read_bytes() for name in (MANIFEST, PREPROCESSING)}
    return BufferCopy(shared.buffer, files), shared.note


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
