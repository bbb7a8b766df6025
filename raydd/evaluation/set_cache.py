"""Storage of a matrix's sets outside it, so that a worker holds only the sets in use."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.evaluation.matrix import Job, Matrix

CACHED_SETS = 2
"""Sets that a cache holds: that of the current job, and the one before, which the next job may use again."""

_NO_TRANSFORM = Transform("raw01")  # it has no arrays


class SetHandle(NamedTuple):
    """A handle of a set without its preprocessing, and the hash of that."""

    handle: Hashable
    transform: str


class SetHandles(NamedTuple):
    """Handles of the sets of jobs, without their data.

    Attributes:
        sets: By row and seed; None for the whole data.
        transforms: A handle of each preprocessing, by hash.
        first: The set whose preprocessing the whole data takes; None where no job is of the whole data.
    """

    sets: dict[tuple[int, int], SetHandle | None]
    transforms: dict[str, Hashable]
    first: SetHandle | None


def store_sets(matrix: Matrix, jobs: Sequence[Job], put: Callable[[Any], Hashable]) -> tuple[Matrix, SetHandles]:
    """Store the sets that jobs need: each set and each preprocessing once.

    Args:
        matrix: The trainings.
        jobs: Those that will run.
        put: Stores a set or a preprocessing, and returns a handle.

    Returns:
        The matrix without its sets, and their handles.
    """
    transforms, stored = dict[str, Hashable](), dict[int, SetHandle]()

    def store(synset: SyntheticSet) -> SetHandle:
        key = synset.transform.hash
        if key not in transforms:
            transforms[key] = put(synset.transform)
        if id(synset) not in stored:  # ids stay valid while the matrix holds the sets
            stored[id(synset)] = SetHandle(put(replace(synset, transform=_NO_TRANSFORM)), key)
        return stored[id(synset)]

    sets = {(job.row, job.seed): None if (one := matrix.set_of(job)) is None else store(one) for job in jobs}
    handles = SetHandles(sets, transforms, store(matrix.first_set()) if None in sets.values() else None)
    return replace(matrix, rows=tuple(replace(row, sets=()) for row in matrix.rows)), handles


class SetCache:
    """The sets that `store_sets` stored, each fetched when a job needs it.

    Args:
        handles: Their handles.
        get: Fetches what a handle refers to.
    """

    def __init__(self, handles: SetHandles, get: Callable[[Any], Any]) -> None:
        self._handles, self._get = handles, get
        self._transforms: dict[str, Transform] = {}
        self._load: Callable[[SetHandle], SyntheticSet] = lru_cache(CACHED_SETS)(self._fetch)

    def set_of(self, job: Job) -> SyntheticSet | None:
        """Return the set that a job trains on; None for the whole data."""
        handle = self._handles.sets[job.row, job.seed]
        return None if handle is None else self._load(handle)

    def first_set(self) -> SyntheticSet:
        """Return the set whose preprocessing the whole data takes."""
        assert self._handles.first is not None, "no job is of the whole data"
        return self._load(self._handles.first)

    def _fetch(self, handle: SetHandle) -> SyntheticSet:
        if handle.transform not in self._transforms:
            self._transforms[handle.transform] = self._get(self._handles.transforms[handle.transform])
        synset: SyntheticSet = self._get(handle.handle)
        return replace(synset, transform=self._transforms[handle.transform])
