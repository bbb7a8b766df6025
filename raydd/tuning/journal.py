"""The file of a search: Optuna's journal with checksums, opened and compared with the search space."""

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
STALE_SECONDS = 3  # age of a lock that a killed writer left; a live writer holds it for milliseconds
DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


def chained(log: Tree, before: str) -> Tree:
    """Return a line of a journal with its checksum, which covers the checksum of the line before."""
    return {**log, CHECKSUM: digest([before, log])[:16]}


class _Journal(JournalFileBackend):
    """Optuna's journal, in which every line has the checksum of itself and of all lines before it."""

    def __init__(self, file: Path, lock: JournalFileOpenLock) -> None:
        super().__init__(str(file), lock_obj=lock)
        self._file, self._own_lock = file, lock
        self._read, self._last = 0, ""

    def append_logs(self, logs: list[Tree]) -> None:
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

    def open(self) -> None:
        """Drop an incomplete last line, to which Optuna would append the next one, and check all others."""
        self._own_lock.acquire()
        try:
            os.truncate(self._file, self._file.read_bytes().rfind(b"\n") + 1)
            self.check()
        finally:
            self._own_lock.release()

    def check(self) -> None:
        """Compare new lines with their checksums; lines of older versions have none."""
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
    """Open the journal; create it when missing, and drop an incomplete last line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        if file.exists() or file.is_symlink():
            with open_regular(file) as journal:
                if os.fstat(journal.fileno()).st_size > MOST_LOG_BYTES:
                    raise ValueError(f"it has more than {MOST_LOG_BYTES:,} bytes")
        backend = _Journal(file, JournalFileOpenLock(str(file), grace_period=STALE_SECONDS))
        backend.open()
        return JournalStorage(backend)
    except Exception:  # Optuna does not validate the file
        raise ValueError(f"{file} is not the journal of a search, or is damaged; use another --out") from None


def open_study(space: Space, storage: JournalStorage, file: Path) -> optuna.Study:
    """Open the journal's study; create it when missing."""
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
            name, was, wanted = key.removeprefix("space."), *(tree.get(key, "the default") for tree in (before, now))
            raise ValueError(
                f"{file.parent} has a search with another {name} (was {was}, now {wanted}); use the same value, or "
                "another --out"
            )
    return study


def new_study(space: Space, sampler: BaseSampler, name: str, storage: JournalStorage | None = None) -> optuna.Study:
    """Return an empty study of a space, in memory unless a storage is given."""
    directions = [DIRECTIONS[direction] for direction in space.directions.values()]
    return optuna.create_study(
        study_name=name, storage=storage, directions=directions, sampler=sampler, pruner=NopPruner()
    )
