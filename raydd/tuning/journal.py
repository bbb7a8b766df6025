"""The file of a search: Optuna's journal, opened, mended and held to be of the same space."""

import json
import os
import warnings
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection

from raydd.config.parsing import flat
from raydd.io.bounded_file import open_regular
from raydd.io.document import MOST_LOG_BYTES, Tree, digest, parse
from raydd.tuning.space import Space

CHECKSUM = "sum"
STALE_SECONDS = 3  # age of a lock left by a killed writer; a live one holds it for milliseconds
WAYS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


def chained(log: Tree, before: str) -> Tree:
    """A line of a journal with its checksum, which covers that of the line before."""
    return {**log, CHECKSUM: digest([before, log])[:16]}


class _Journal(JournalFileBackend):
    """Optuna's journal, whose every line says the checksum of itself and of all before it."""

    def __init__(self, file: Path, lock: JournalFileOpenLock) -> None:
        super().__init__(str(file), lock_obj=lock)
        self._file, self._own_lock = file, lock
        self._read, self._last = 0, ""

    def append_logs(self, logs: list[Tree]) -> None:
        """Write lines, after those that are there by now."""
        self._own_lock.acquire()
        try:
            self.check()
            lines = []
            for log in logs:
                line = chained(json.loads(json.dumps(log)), self._last)
                self._last = line[CHECKSUM]
                lines.append(json.dumps(line, separators=(",", ":")) + "\n")
            with self._file.open("ab") as file:
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
                self._read = file.tell()
        finally:
            self._own_lock.release()

    def check(self) -> None:
        """Read the lines that are new, and compare them with their checksums; lines of older versions have none.

        Raises:
            ValueError: A line was changed, or is none of a journal.
        """
        with open_regular(self._file) as file:
            file.seek(self._read)
            data = file.read(MOST_LOG_BYTES)
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            log = parse(line)
            seal = log.pop(CHECKSUM, "") if isinstance(log, dict) else ""
            if not isinstance(log, dict) or ((seal or self._last) and seal != chained(log, self._last)[CHECKSUM]):
                raise ValueError("it was changed since it was written (checksum)")
            self._last = seal
        self._read += data.rfind(b"\n") + 1


def open_storage(file: Path) -> JournalStorage:
    """The journal, made when missing; a line that a killed writer left half-written is dropped.

    Raises:
        ValueError: The file is no journal, or it was changed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        if file.exists() or file.is_symlink():
            with open_regular(file) as there:
                if os.fstat(there.fileno()).st_size > MOST_LOG_BYTES:
                    raise ValueError(f"it has more than {MOST_LOG_BYTES:,} bytes")
        lock = JournalFileOpenLock(str(file), grace_period=STALE_SECONDS)
        backend = _Journal(file, lock)
        lock.acquire()
        try:
            _mend(file)
            backend.check()
        finally:
            lock.release()
        return JournalStorage(backend)
    except Exception:  # Optuna believes what is in it
        raise ValueError(f"{file} is no journal of a search, or is damaged; use another --out") from None


def _mend(file: Path) -> None:
    """Optuna skips a last line without an end when it reads, but would write the next one onto it."""
    os.truncate(file, file.read_bytes().rfind(b"\n") + 1)


def open_study(space: Space, storage: JournalStorage, file: Path) -> optuna.Study:
    """The journal's one study, made when missing.

    Raises:
        ValueError: It is of a search with other settings.
    """
    names = optuna.get_all_study_names(storage)
    if names:
        study = optuna.load_study(study_name=names[0], storage=storage, sampler=RandomSampler(), pruner=NopPruner())
    else:
        study = new_study(space, RandomSampler(), space.name, storage)
    settings = space.model_dump(mode="json", exclude={"name", "budget"}, exclude_defaults=True)
    settings = json.loads(json.dumps(settings | {"set": flat(space.set), "reports": space.budget.reports}))
    if "space" not in study.user_attrs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(space.directions))
        study.set_user_attr("space", settings)
    before, now = (flat({"space": tree}) for tree in (study.user_attrs["space"], settings))
    for key in sorted(before | now):
        if before.get(key) != now.get(key):
            name = key.removeprefix("space.")
            was, wanted = (tree.get(key, "the default") for tree in (before, now))
            raise ValueError(
                f"{file.parent} is of a search with another {name} (was {was}, now {wanted}); repeat what it was, or "
                "use another --out"
            )
    return study


def new_study(space: Space, sampler: BaseSampler, name: str, storage: JournalStorage | None = None) -> optuna.Study:
    """An empty study of a space, in memory unless a storage is given."""
    ways = [WAYS[way] for way in space.directions.values()]
    return optuna.create_study(study_name=name, storage=storage, directions=ways, sampler=sampler, pruner=NopPruner())
