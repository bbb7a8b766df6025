"""The runs of a search's trials in its storage: a folder, or a URI that every node reads and writes.

A trial's folder there holds its run, or checkpoints of it in folders of their own, as Ray Tune writes them.
"""

from pathlib import Path
from typing import Any, NamedTuple

from raydd.tuning.checkpoint_transfer import INDEX, Copy, checkpoint_folders, is_run_file, newest_copy, replace_run
from raydd.tuning.trial import REPORTS, progress_of

CHUNK = 8 << 20
FIRST = "checkpoint_000000"
"""Tune's name of a trial's first checkpoint."""


class TrialStore(NamedTuple):
    """The folder of one trial in a storage."""

    system: Any  # a file system of `pyarrow.fs`
    path: str

    def sizes(self) -> dict[str, int]:
        """Return the bytes of all files below the folder, by their path in it."""
        from pyarrow.fs import FileSelector, FileType

        infos = self.system.get_file_info(FileSelector(self.path, recursive=True, allow_not_found=True))
        start = len(self.path.rstrip("/")) + 1
        return {info.path[start:]: info.size for info in infos if info.type == FileType.File}

    def newest(self) -> Copy | None:
        """Return the last copy of the trial's run; None where there is none."""
        return newest_copy(self.sizes(), self._read)

    def _read(self, name: str) -> bytes:
        with self.system.open_input_stream(f"{self.path}/{name}") as file:
            return bytes(file.read())

    def fetch(self, copy: Copy, folder: Path) -> None:
        """Replace the run of a folder of this node by a copy."""

        def get(name: str, target: Path) -> None:
            source = f"{self.path}/{copy.name}" if copy.name else self.path
            with self.system.open_input_stream(f"{source}/{name}") as file, target.open("wb") as out:
                while data := file.read(CHUNK):
                    out.write(data)

        replace_run(folder, copy.files, get)

    def restore(self, folder: Path) -> tuple[int, int, bool]:
        """Replace the run of a folder of this node, unless it is as far; return how far the storage's run is."""
        copy = self.newest()
        if copy is None:
            return 0, 0, False
        if not (folder / "config.yaml").exists() or copy.progress > progress_of(folder):
            self.fetch(copy, folder)
        return copy.progress

    def promote(self, here: bool) -> None:
        """Copy the newest checkpoint's files into the trial's folder, then remove all checkpoints.

        A later call of Tune numbers its checkpoints from 0 again. After a kill, the next call goes on: the checkpoint
        counts until its copy is whole.

        Args:
            here: The storage is a folder of this node, in which the trial may have run further than its checkpoint.
        """
        sizes = self.sizes()
        copy, folders = newest_copy(sizes, self._read), checkpoint_folders(sizes)
        further = here and copy is not None and progress_of(Path(self.path)) >= copy.progress
        if copy and copy.name and not further:
            for name in (*sorted(copy.files, key=lambda name: name == REPORTS), INDEX):  # how far it is comes last
                self._copy(f"{copy.name}/{name}", name)
        for folder in sorted(folders, key=lambda folder: copy is not None and folder == copy.name):  # the newest last
            self.system.delete_dir(f"{self.path}/{folder}")

    def settle(self) -> None:
        """Keep the newest copy of the run as a checkpoint, and remove the run that `promote` has left.

        A run that no checkpoint has followed becomes one again. After a kill, call it again.
        """
        sizes = self.sizes()
        copy = newest_copy(sizes, self._read)
        if copy is None or (not copy.name and INDEX not in sizes):
            return
        if not copy.name:
            for folder in checkpoint_folders(sizes):  # copied by half: files of this run would complete it
                self.system.delete_dir(f"{self.path}/{folder}")
            for name in (*copy.files, INDEX):
                self._copy(name, f"{FIRST}/{name}")
        for name in filter(is_run_file, sizes):
            self.system.delete_file(f"{self.path}/{name}")

    def _copy(self, source: str, target: str) -> None:
        self.system.create_dir(f"{self.path}/{target}".rpartition("/")[0], recursive=True)
        self.system.copy_file(f"{self.path}/{source}", f"{self.path}/{target}")
