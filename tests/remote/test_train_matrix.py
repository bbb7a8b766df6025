"""The matrix on one Ray Train group: the same results whoever does the trainings and whatever dies."""

import errno
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from raydd.config.placement import Where
from raydd.config.schema import DataConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, Scorer, ScoreRow
from raydd.evaluation.protocols import PROTOCOLS
from raydd.evaluation.successive_halving import Rungs
from raydd.numerics.rng import generator
from raydd.remote.train_matrix import train_matrix
from raydd.remote.training_workers import _BLOCK, Early, early_workers, kept_workers
from raydd.selection.class_sampler import Request
from raydd.selection.starting_images import INITIAL

pytestmark = pytest.mark.remote
ONE, TWO = Where(num_workers=1), Where(num_workers=2)


@pytest.fixture(scope="module")
def matrix(cache):
    """Two fresh MLPs trained on ten real digits, and two on all of them."""
    data = DataConfig(augment="none")
    work = open_workspace(data, "MLP", torch.device("cpu"))
    images, labels = INITIAL["real"](Request(work.dataset, work.transform, 1, generator(0, "test")))
    synset = SyntheticSet(images, labels, torch.tensor(0.01), work.transform, "digits", work.dataset.classes)
    entries = (ScoreRow("ten", "distilled", (synset,)), ScoreRow("whole", "whole", ()))
    return Matrix(entries, ("MLP",), range(3, 5), PROTOCOLS["mtt"].changed(real_epochs=3), data, "cpu")


@pytest.fixture(scope="module")
def expected(matrix):
    """What one process comes to, without Ray."""
    scorer = Scorer(matrix)
    return {job: scorer.score(job).value for job in matrix.jobs()}


def values(found):
    return {job: outcome.value for job, outcome in found.items()}


def test_results_are_those_of_one_process(ray2, matrix, expected):
    shown = []
    found = train_matrix(matrix, Where(num_workers=8), shown.append)
    assert values(found) == expected
    assert len(found) == len(expected) == 4
    assert len(set(expected.values())) > 1
    assert (shown[0].done, shown[0].total) == (0, 4)
    assert shown[0].note == "8 workers requested, the machine has room for 2 (1 CPU each): running 2"


def ask_until_it_is_gone(ray, queue):
    for _ in range(100):  # Ray kills an actor soon
        ray.get(queue.counts.remote())
        time.sleep(0.1)


def test_workers_may_start_before_their_trainings_are_known(ray2, matrix, expected):
    notes = []
    with early_workers(TWO):
        queue, groups, *_ = _BLOCK.get().waiting
        end = time.monotonic() + 60
        while ray2.get(queue.joined.remote("group-1")) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        (first,) = groups._groups
        assert values(train_matrix(matrix, TWO, lambda step: notes.append(step.note))) == expected
        assert groups._started == 1, "the early group has done all"
        assert not first.thread.is_alive()
        assert _BLOCK.get().waiting is None, "a second matrix has workers of its own"
    with early_workers(ONE):
        queue, groups, *_ = _BLOCK.get().waiting
    assert _BLOCK.get() is None
    assert groups._groups[1:] == []
    with pytest.raises(ray2.exceptions.RayActorError):
        ask_until_it_is_gone(ray2, queue)


def wait_for_results(ray, queue, count):
    end = time.monotonic() + 60
    while len(ray.get(queue.results.remote())) < count and time.monotonic() < end:
        time.sleep(0.1)
    return dict(ray.get(queue.results.remote()))


def test_trainings_begin_before_the_others_of_their_matrix_are_known(ray2, matrix, expected):
    """Those on all images begin; then the ten come, or all images are to be trained on for longer."""
    ten, whole = matrix.rows
    black = replace(ten.sets[0], images=torch.zeros_like(ten.sets[0].images))
    unknown = replace(matrix, rows=(replace(ten, sets=(black,)), whole), device="of the driver")
    early = Early(unknown, [job for job in matrix.jobs() if job.row == 1])
    with early_workers(TWO, early):
        queue, groups, *_ = _BLOCK.get().waiting
        begun = wait_for_results(ray2, queue, 2)
        kept = []
        found = train_matrix(matrix, TWO, lambda step: None, store=lambda job, outcome: kept.append(job))
        assert values(found) == expected
        assert groups._started == 1, "no worker starts twice"
        assert begun.items() <= found.items(), "they run once"
        assert sorted(kept) == sorted(matrix.jobs())
    longer = replace(matrix, protocol=matrix.protocol.changed(real_epochs=4))
    with early_workers(TWO, early):
        queue = _BLOCK.get().waiting.queue
        found = train_matrix(longer, TWO, lambda step: None)
        assert values(found) == {job: Scorer(longer).score(job).value for job in longer.jobs()}
        with pytest.raises(ray2.exceptions.RayActorError):
            ask_until_it_is_gone(ray2, queue)


def test_evaluations_of_a_block_share_their_workers(ray2, matrix, expected):
    """The second has more rows; the third is stopped, since all of it fails; the last one has another demand."""
    ten = matrix.rows[0]
    with kept_workers():
        assert len(train_matrix(replace(matrix, rows=(ten,)), TWO, lambda step: None)) == 2
        first = _BLOCK.get().waiting
        assert values(train_matrix(matrix, TWO, lambda step: None)) == expected
        assert _BLOCK.get().waiting == first
        assert first.groups._started == 1, "the same processes"
        broken = replace(matrix, rows=(replace(ten, classes=(7, 99)),) * 6)
        failed = train_matrix(broken, TWO, lambda step: None)
        assert {type(result).__name__ for result in failed.values()} == {"Failure"}
        assert values(train_matrix(matrix, TWO, lambda step: None)) == expected
        assert first.groups._started == 1
        other = first._replace(demand=first.demand._replace(memory=1e6))
        _BLOCK.get().waiting = other
        assert values(train_matrix(matrix, ONE, lambda step: None)) == expected
        assert _BLOCK.get().waiting.queue != other.queue
    assert _BLOCK.get() is None
    with pytest.raises(ray2.exceptions.RayActorError):
        ask_until_it_is_gone(ray2, first.queue)


@pytest.mark.slow
def test_a_killed_worker_costs_no_result(ray2, matrix, expected, kill_worker):
    """One worker, killed when its first results are in: the group is started anew and ends with the same results."""
    killed = []

    def show(step):
        if 0 < step.done < step.total and not killed:
            killed.append(kill_worker("ray::RayTrainWorker"))

    slow = replace(matrix, networks=("MLP", "ConvNetW32"))
    found = train_matrix(slow, ONE, show)
    assert killed
    assert len(found) == len(slow.jobs()) == 8
    assert {job: value for job, value in values(found).items() if job.network == "MLP"} == expected


def test_what_is_known_is_not_done_again_and_counts_at_the_rungs(ray2, matrix):
    """Of two seeds one network is known, perfect at the rung or hopeless: the other is stopped there, or goes on."""
    rungs = Rungs((2,), 2)
    rows = replace(matrix, networks=("MLP", "LeNet"), rows=matrix.rows[:1], rungs=rungs)
    rows = replace(rows, protocol=matrix.protocol.changed(30))
    known = {Job(0, "MLP", 3): Outcome(0.125, 9.0, ((2, 1.0),)), Job(0, "MLP", 4): Outcome(0.25, 9.0, ((2, 0.0),))}
    kept, shown = [], []
    found = train_matrix(rows, TWO, shown.append, known, lambda job, outcome: kept.append((job, outcome)))
    new = {job: outcome for job, outcome in found.items() if job not in known}
    assert known.items() <= found.items()
    assert (len(kept), dict(kept)) == (2, new)
    assert {job: (outcome.stopped, len(outcome.curve)) for job, outcome in new.items()} == {
        Job(0, "LeNet", 3): (True, 1),
        Job(0, "LeNet", 4): (False, 1),
    }
    scorer = Scorer(rows)
    for job, outcome in new.items():
        alone = scorer.score(job, lambda epoch, value, job=job: job.seed == 4)
        assert alone._replace(seconds=outcome.seconds) == outcome
    assert (shown[0].total, shown[-1].done, shown[-1].total) == (2, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "room", "poll"), [(40, 2, 0.05), (1, 0, 30.0)], ids=["in the middle", "at the very end"]
)
def test_a_full_disk_ends_it_in_one_line_and_costs_nothing_that_was_kept(ray2, matrix, monkeypatch, seeds, room, poll):
    """Seen while trainings go on, or, where nobody looks for half a minute, with the last results."""
    rows = replace(matrix, rows=matrix.rows[:1], seeds=range(3, 3 + seeds), protocol=matrix.protocol.changed(300))
    kept, tried = {}, []

    def keep(job, outcome):
        tried.append(job)
        if len(kept) == room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scores/ab/cd.json")
        kept[job] = outcome

    monkeypatch.setattr("raydd.remote.train_matrix.POLL_SECONDS", poll)
    with pytest.raises(RuntimeError, match=r"cannot be cached: .*No space left.*scores/ab/cd\.json") as caught:
        train_matrix(rows, ONE, lambda step: None, None, keep)
    assert "\n" not in str(caught.value)
    assert len(kept) == room
    assert len(tried) == len(set(tried))
    assert room < len(tried) <= max(1, seeds // 2)
    assert values(kept) == {job: Scorer(rows).score(job).value for job in kept}


@pytest.mark.slow
def test_a_training_that_fails_is_one_line_and_no_hang(ray2, matrix, tmp_path):
    """The images are gone when the workers start."""
    root = tmp_path / "images"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8), dtype=np.uint8)
    for name, pictures in zip("ab", pixels, strict=True):
        (root / name).mkdir(parents=True)
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(root / name / f"{index}.png")
    data = DataConfig(dataset=str(root))
    open_workspace(data, "MLP", torch.device("cpu"))
    shutil.rmtree(root)
    found = train_matrix(replace(matrix, data=data), ONE, lambda step: None)
    assert len(found) == 4
    for failure in found.values():
        assert "images" in failure.reason
        assert "\n" not in failure.reason
        assert "Traceback" not in failure.reason
