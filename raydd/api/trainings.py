"""The trainings of a matrix: cached ones are reused, and the others run on Ray."""

import itertools
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from raydd.config.placement import HERE, Where, check_share
from raydd.data import mirroring
from raydd.data.datasets import Dataset
from raydd.data.workspace import print_note, resolve_device
from raydd.evaluation.jobs import Job, Outcome, Result
from raydd.evaluation.matrix import Matrix
from raydd.evaluation.result_cache import CacheKeys, ResultCache, cached_outcomes, commits
from raydd.io.console import Pace, Screen, left
from raydd.io.provenance import commit
from raydd.run.storage import TRAININGS, remote_storage


def run_matrix(
    matrix: Matrix, dataset: Dataset, *, fresh: bool = False, where: Where = HERE, screen: Screen | None = None
) -> dict[Job, Result]:
    """Run the trainings of a matrix on Ray, except those with a cached result; cache each result at once.

    Inside a block of `raydd.run.storage.open_storage` results are kept at its URI, too.

    Rows of the same trainings run once. A training that failed has a `raydd.evaluation.jobs.Failure` as its result.
    Arguments are those of `raydd.api.evaluate.evaluate`.
    """
    screen = screen or Screen()
    if matrix.data.augment != "none" and dataset.flip:
        screen.once(mirroring.mirroring_note(matrix.data.dataset))
    print_note(dataset, screen)
    fewer, row_in_fewer = distinct_rows(matrix, dataset)
    results = _run(fewer, dataset, fresh, where, screen)
    return {job: results[job._replace(row=row_in_fewer[job.row])] for job in matrix.jobs()}


def distinct_rows(matrix: Matrix, dataset: Dataset) -> tuple[Matrix, list[int]]:
    """Return a matrix of the rows that have trainings of their own, and for every row the one there with the same."""
    same = first_equal_rows(matrix, dataset)
    distinct = sorted(set(same))
    return replace(matrix, rows=tuple(matrix.rows[row] for row in distinct)), [distinct.index(row) for row in same]


def first_equal_rows(matrix: Matrix, dataset: Dataset) -> list[int]:
    """Return for every row the first one with the same trainings, which may be itself.

    Of one image a class, several selections are often the same images; a kept step may be the set that was chosen; and
    robust scores of several sets compare with the same whole data.
    """
    keys, first, equal = CacheKeys(matrix, dataset), dict[str, int](), list[int]()
    for index in range(len(matrix.rows)):
        own = [keys.of(Job(index, matrix.networks[0], seed)) for seed in matrix.seeds_of(index)]
        equal.append(first.setdefault(json.dumps(own, sort_keys=True), index))
    return equal


def _run(matrix: Matrix, dataset: Dataset, fresh: bool, where: Where, screen: Screen) -> dict[Job, Result]:
    from raydd.remote.session import session
    from raydd.remote.train_matrix import MatrixProgress, device_on_cluster, train_matrix

    with ExitStack() as stack:
        if on_cluster(where):
            stack.enter_context(session(where.address, screen.note))
            matrix = replace(matrix, device=device_on_cluster(where, screen.note))
        else:
            matrix = replace(matrix, device=driver_device(where))
            check_share(where.gpus_per_worker, matrix.device)
        storage, number = remote_storage(), itertools.count(1)
        cache = ResultCache(commit=commit(), log=None if storage is None else storage.folder / TRAININGS)
        keys = CacheKeys(matrix, dataset)
        cached = {} if fresh else cached_outcomes(matrix, keys, cache)
        remaining = len(matrix.jobs()) - len(cached)
        _note_work(matrix, dataset, cached, cache, screen)
        if not remaining:
            return {**cached}
        if not on_cluster(where):
            stack.enter_context(session(where.address, screen.note))
        update, pace = stack.enter_context(screen.progress("evaluate", remaining)), Pace()

        def store(job: Job, outcome: Outcome) -> None:
            cache.store(keys.stopped(job) if outcome.stopped else keys.of(job), outcome)
            if storage is not None:
                storage.save(next(number), "training")

        def show(step: MatrixProgress) -> None:
            if step.note:
                screen.note(step.note)
            update(step.done, left(pace.left(step.done, remaining)) if step.done else "starting workers")

        done, own = train_matrix(matrix, where, show, cached, store), commit()
    return {
        job: result._replace(commit=own) if isinstance(result, Outcome) and job not in cached else result
        for job, result in done.items()
    }


def _note_work(
    matrix: Matrix, dataset: Dataset, cached: Mapping[Job, Outcome], cache: ResultCache, screen: Screen
) -> None:
    """Print how many trainings there are, and how many of them are cached."""
    if cache.damaged:
        screen.note(f"{len(cache.damaged)} cached results are damaged, the first is {cache.damaged[0]}: they run again")
    screen.note(f"evaluating: {len(matrix.jobs())} trainings on {dataset.name}, protocol {matrix.protocol.name}")
    if cached:
        source = f"made by commit {', '.join(commits(cached.values()))}"
        screen.note(f"{len(cached)} of them are cached ({source}; --fresh runs them again)")


def on_cluster(where: Where) -> bool:
    """Return whether the trainings run on a Ray that exists, whose nodes may have other devices than this machine."""
    if where.address is not None or "ray" not in sys.modules:
        return where.address is not None
    from raydd.remote.session import is_open

    return is_open()


def driver_device(where: Where) -> str:
    """Return the device of this machine: of what the driver computes itself, and of workers of a private Ray.

    Raises:
        ValueError: The device is asked of this machine, which does not have it.
    """
    return resolve_device("auto" if on_cluster(where) else where.device).type
