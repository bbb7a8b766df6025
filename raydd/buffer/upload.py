"""A buffer at a URI while experts are added to it.

Each worker puts its finished experts into the store from its own node. The process that leads them commits the
manifest after each. An expert that a worker put and nobody committed is found by the next run, which checks it.
"""

import time
from pathlib import Path
from typing import Any

from raydd.buffer.expert_file import expert_numbers, expert_path, open_expert
from raydd.buffer.manifest import manifest_entry, parse_manifest, read_manifest, write_manifest
from raydd.buffer.mirror import MANIFEST, PREPROCESSING, fetch, mirror
from raydd.buffer.spec import BufferSpec
from raydd.io.files import AnyPath
from raydd.io.filesystem import Store, open_store

Entry = dict[str, Any]
PAUSES = (2.0, 10.0)
"""Seconds before a file is sent again after a failure; the file system has tried three times already."""


class BufferUpload:
    """The store that a run adds its experts to.

    Attributes:
        store: The buffer's files.
        folder: This node's copies of some of them.
        entries: The manifest's entry of every expert in the store, by number; filled by `open`.
    """

    def __init__(self, uri: str) -> None:
        self.store, self.folder = open_store(uri), mirror(uri)
        self.entries: dict[int, Entry] = {}
        self._spec: BufferSpec | None = None
        self._listed_before: set[int] = set()
        fetch(uri, (MANIFEST, PREPROCESSING))

    def open(self, spec: BufferSpec, here: set[int]) -> set[int]:
        """Make the buffer in the store, or send what this node has and the store lacks.

        Args:
            spec: What the buffer is of; `folder` holds its manifest and preprocessing.
            here: The complete experts in `folder`.
        """
        self._spec = spec
        self.store.sweep()
        there, listed = self.store.names(), dict[int, Entry]()
        if MANIFEST in there:
            fetch(self.store.uri, (MANIFEST, PREPROCESSING))
            other, listed = read_manifest(self.folder)
            if difference := other.difference(spec):
                raise ValueError(f"{self.store.public_uri} holds another buffer: {difference}; name another --out")
        if PREPROCESSING not in there:
            self.store.put(self.folder / PREPROCESSING, PREPROCESSING)  # fails at once where the user may not write
        self._listed_before = {*listed}
        if MANIFEST not in there:
            self._commit()
        for index, entry in listed.items():
            if there.get(entry["file"]) == entry["bytes"]:
                self.entries[index] = entry
        for index in sorted(here - self.entries.keys()):
            if expert_path("", index).name not in there:
                put(self.store, expert_path(self.folder, index))
                self.entries[index] = entry_of(self.folder, index, spec)
        self._add_unlisted(there, spec)
        self._commit()
        return set(self.entries)

    def add(self, entry: Entry) -> None:
        """Commit an expert that its worker has put into the store."""
        self.entries[entry["index"]] = entry
        self._commit()

    def _add_unlisted(self, there: dict[str, int], spec: BufferSpec) -> None:
        """Count complete experts that were put and not committed."""
        names = {expert_path("", index).name: index for index in {*expert_numbers(there)} - self.entries.keys()}
        if names:
            fetch(self.store.uri, names)
        for index in names.values():
            try:
                self.entries[index] = entry_of(self.folder, index, spec)
            except ValueError:  # it is trained and sent again
                path = expert_path(self.folder, index)
                path.replace(f"{path}.bad")

    def _commit(self) -> None:
        """Put the manifest, with the experts that another run has committed since `open`."""
        assert self._spec is not None
        try:
            listed = parse_manifest(self.store.read(MANIFEST), MANIFEST)[1]
        except (FileNotFoundError, ValueError):  # it is replaced
            listed = {}
        others = {index: entry for index, entry in listed.items() if index not in self._listed_before}
        write_manifest(self.folder, self._spec, [entry for _, entry in sorted((others | self.entries).items())])
        put(self.store, self.folder / MANIFEST)


def put(store: Store, path: Path) -> None:
    """Put a file under its own name, and try again where that fails."""
    for pause in PAUSES:
        try:
            store.put(path, path.name)
            return
        except OSError:
            time.sleep(pause)
    store.put(path, path.name)


def entry_of(folder: AnyPath, index: int, spec: BufferSpec) -> Entry:
    """Return the manifest's entry of an expert's file."""
    path = expert_path(folder, index)
    return manifest_entry(path, index, open_expert(path, index, spec, "train it again"))
