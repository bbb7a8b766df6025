"""The sets of a matrix kept apart from it, so that who does its jobs holds those in use and no others."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.evaluation.matrix import Job, Matrix

HELD = 2
"""Sets that a shelf holds: that of the job in hand, and the one before, which the next job may ask for again."""

_NONE = Transform("raw01")  # it has no arrays


class Place(NamedTuple):
    """Where a set is: a handle of it without its preprocessing, and the hash of that."""

    handle: Hashable
    transform: str


class Places(NamedTuple):
    """Where the sets of a matrix' jobs are; all of it is light.

    Attributes:
        sets: By entry and seed; None for the whole data.
        transforms: A handle of each preprocessing, by hash.
        look: The set whose preprocessing the whole data takes; None where no job is of the whole data.
    """

    sets: dict[tuple[int, int], Place | None]
    transforms: dict[str, Hashable]
    look: Place | None


def shelve(matrix: Matrix, jobs: Sequence[Job], put: Callable[[Any], Hashable]) -> tuple[Matrix, Places]:
    """Put away what jobs need of a matrix' sets: each set and each preprocessing once, however many share it.

    Args:
        matrix: Whose sets.
        jobs: Those that will be done.
        put: Takes a set or a preprocessing, and gives a handle of it.

    Returns:
        The matrix without its sets, and where they are.
    """
    transforms, found = dict[str, Hashable](), dict[int, Place]()

    def place(synset: SyntheticSet) -> Place:
        look = synset.transform.hash
        if look not in transforms:
            transforms[look] = put(synset.transform)
        if id(synset) not in found:  # the matrix holds it meanwhile
            found[id(synset)] = Place(put(replace(synset, transform=_NONE)), look)
        return found[id(synset)]

    sets = {(job.entry, job.seed): None if (one := matrix.set_of(job)) is None else place(one) for job in jobs}
    places = Places(sets, transforms, place(matrix.look()) if None in sets.values() else None)
    return replace(matrix, entries=tuple(replace(entry, sets=()) for entry in matrix.entries)), places


class Shelf:
    """The sets that `shelve` has put away, each fetched when a job asks for it.

    Args:
        places: Where they are.
        get: Gives what a handle is of.
    """

    def __init__(self, places: Places, get: Callable[[Any], Any]) -> None:
        self._places, self._get = places, get
        self._transforms: dict[str, Transform] = {}
        self._open: Callable[[Place], SyntheticSet] = lru_cache(HELD)(self._fetch)

    def set_of(self, job: Job) -> SyntheticSet | None:
        """What a job's network is trained on; None for the whole data."""
        place = self._places.sets[job.entry, job.seed]
        return None if place is None else self._open(place)

    def look(self) -> SyntheticSet:
        """The set whose preprocessing the whole data takes."""
        assert self._places.look is not None, "no job is of the whole data"
        return self._open(self._places.look)

    def _fetch(self, place: Place) -> SyntheticSet:
        if place.transform not in self._transforms:
            self._transforms[place.transform] = self._get(self._places.transforms[place.transform])
        synset: SyntheticSet = self._get(place.handle)
        return replace(synset, transform=self._transforms[place.transform])
