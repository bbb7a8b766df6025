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

from raydd.settings import flat
from raydd.tuning.space import Space

STALE_SECONDS = 3  # age of a lock left by a killed writer; a live one holds it for milliseconds
WAYS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


def open_storage(file: Path) -> JournalStorage:
    """The journal, made when missing; a line that a killed writer left half-written is dropped.

    Raises:
        ValueError: The file is no journal.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(str(file), grace_period=STALE_SECONDS)
    try:
        storage = JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
        lock.acquire()
        try:
            _mend(file)
        finally:
            lock.release()
    except (ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{file} is no journal of a search, or is damaged; use another --out") from None
    return storage


def _mend(file: Path) -> None:
    """Optuna skips a last line without an end when it reads, but would write the next one onto it."""
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    json.loads(content[:whole].splitlines()[-1] if whole else b"{}")  # which Optuna skips too where it is no journal's
    os.truncate(file, whole)


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
