"""Storage of a matrix's sets outside it, so that a worker holds only the sets in use."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Job
from raydd.evaluation.matrix import Matrix

CACHED_SETS = 2
"""Sets that a cache holds: that of the current job, and the one before, which the next job may use again."""

_NO_TRANSFORM = Transform("raw01")  # it has no arrays


SetHandle = tuple[Hashable, Hashable]
"""Handles of a set without its preprocessing, and of its preprocessing."""


class SetHandles(NamedTuple):
    """Handles of the sets of jobs, without their data."""

    sets: dict[tuple[int, int], SetHandle | None]
    first: SetHandle | None


def store_sets(matrix: Matrix, jobs: Sequence[Job], put: Callable[[Any], Hashable]) -> tuple[Matrix, SetHandles]:
    """Store the sets that jobs need: each set and each preprocessing once, by ``put``, which returns a handle.

    Returns the matrix without its sets, and their handles.
    """
    transforms, stored = dict[str, Hashable](), dict[int, SetHandle]()

    def store(synset: SyntheticSet) -> SetHandle:
        key = synset.transform.hash
        if key not in transforms:
            transforms[key] = put(synset.transform)
        if id(synset) not in stored:  # ids stay valid while the matrix holds the sets
            stored[id(synset)] = put(replace(synset, transform=_NO_TRANSFORM)), transforms[key]
        return stored[id(synset)]

    sets = {(job.row, job.seed): None if (one := matrix.set_of(job)) is None else store(one) for job in jobs}
    handles = SetHandles(sets, store(matrix.first_set()) if None in sets.values() else None)
    return replace(matrix, rows=tuple(replace(row, sets=()) for row in matrix.rows)), handles


class SetCache:
    """The sets that `store_sets` stored, each fetched by ``get`` when a job needs it."""

    def __init__(self, handles: SetHandles, get: Callable[[Any], Any]) -> None:
        self._handles, self._get, self._get_transform = handles, get, cache(get)
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
        synset: SyntheticSet = self._get(handle[0])
        return replace(synset, transform=self._get_transform(handle[1]))
