"""A buffer at an URI while experts are being added to it: what is there already, and the manifest that tells of it.

Workers put finished experts there themselves, each from its own node. The process that leads them commits the
manifest after each; an expert that was put and not committed yet is found again, and read once to see that it is whole.
"""

import time
from pathlib import Path
from typing import Any

from raydd.buffer.expert_file import expert_numbers, expert_path, open_expert
from raydd.buffer.manifest import manifest_entry, parse_manifest, read_manifest, write_manifest
from raydd.buffer.mirror import MANIFEST, PREPROCESSING, Store, fetch, mirror, open_store
from raydd.buffer.spec import BufferSpec
from raydd.io.files import AnyPath

Entry = dict[str, Any]
PAUSES = (2.0, 10.0)
"""Seconds before a store that did not take a file is tried again; the file system has tried thrice already."""


class Outlet:
    """Where a run's experts go when that is no folder.

    Args:
        uri: The buffer's.

    Attributes:
        store: The buffer's files.
        folder: This node's copies of some of them.
        entries: The manifest's words on every expert that is there, by number; of `open`.

    Raises:
        ValueError: No such kind of store.
        OSError: It cannot be read.
    """

    def __init__(self, uri: str) -> None:
        self.store, self.folder = open_store(uri), mirror(uri)
        self.entries: dict[int, Entry] = {}
        self._spec: BufferSpec | None = None
        self._looked_at: set[int] = set()
        fetch(uri, (MANIFEST, PREPROCESSING))

    def open(self, spec: BufferSpec, here: set[int]) -> set[int]:
        """Make the buffer there, or bring it up to date with what this node has.

        Args:
            spec: What the buffer is of; `folder` holds its manifest and preprocessing.
            here: The experts that are whole in `folder`.

        Returns:
            The experts that are there.

        Raises:
            ValueError: Another run has made another buffer there meanwhile.
            OSError: The store cannot be read or written.
        """
        self._spec = spec
        self.store.sweep()
        there, listed = self.store.names(), dict[int, Entry]()
        if MANIFEST in there:
            fetch(self.store.uri, (MANIFEST, PREPROCESSING))
            found, listed = read_manifest(self.folder)
            if difference := found.difference(spec):
                raise ValueError(f"{self.store.shown} holds another buffer: {difference}; name another place")
        if PREPROCESSING not in there:
            self.store.put(self.folder / PREPROCESSING, PREPROCESSING)  # at once: who may not write is told so now
        self._looked_at = {*listed}
        if MANIFEST not in there:
            self._commit()
        for index, entry in listed.items():
            if there.get(entry["file"]) == entry["bytes"]:
                self.entries[index] = entry
        unsent = {index for index in here - self.entries.keys() if expert_path("", index).name not in there}
        for index in sorted(unsent):
            put(self.store, expert_path(self.folder, index))
            self.entries[index] = entry_of(self.folder, index, spec)
        self._take_unlisted(there, spec)
        self._commit()
        return set(self.entries)

    def add(self, entry: Entry) -> None:
        """Commit an expert that its worker has put there."""
        self.entries[entry["index"]] = entry
        self._commit()

    def _take_unlisted(self, there: dict[str, int], spec: BufferSpec) -> None:
        """Count experts that were put and not committed, if they are whole."""
        names = {expert_path("", index).name: index for index in {*expert_numbers(there)} - self.entries.keys()}
        if names:
            fetch(self.store.uri, names)
        for index in names.values():
            try:
                self.entries[index] = entry_of(self.folder, index, spec)
            except ValueError:  # it is trained anew and replaced
                path = expert_path(self.folder, index)
                path.replace(f"{path}.bad")

    def _commit(self) -> None:
        """Put the manifest, which keeps the experts that another run has committed since `open`."""
        assert self._spec is not None
        others = {index: entry for index, entry in self._listed().items() if index not in self._looked_at}
        write_manifest(self.folder, self._spec, [entry for _, entry in sorted((others | self.entries).items())])
        put(self.store, self.folder / MANIFEST)

    def _listed(self) -> dict[int, Entry]:
        """What the store's manifest lists now."""
        try:
            return parse_manifest(self.store.read(MANIFEST), MANIFEST)[1]
        except (FileNotFoundError, ValueError):  # it is replaced
            return {}


def put(store: Store, path: Path) -> None:
    """Put a file under its own name; a store that does not take it is tried again.

    Raises:
        OSError: As of `raydd.io.filesystem.Store.put`.
    """
    for pause in PAUSES:
        try:
            store.put(path, path.name)
            return
        except OSError:
            time.sleep(pause)
    store.put(path, path.name)


def entry_of(folder: AnyPath, index: int, spec: BufferSpec) -> Entry:
    """The manifest's words on an expert's file.

    Raises:
        ValueError: It is missing, cut short, or of another buffer.
    """
    path = expert_path(folder, index)
    return manifest_entry(path, index, open_expert(path, index, spec, "train it anew"))
