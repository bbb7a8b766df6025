"""The evaluator's jobs: handed out, taken back, never lost and never doubled; no Ray."""

import random

import pytest

from raydd.evaluation.matrix import Job, Outcome
from raydd.evaluation.successive_halving import Rungs
from raydd.remote.train_matrix import JobQueue, train_matrix

JOBS = [Job(entry, "MLP", seed) for entry in range(3) for seed in range(4)]


def drain(queue, worker="rank 0", value=0.5):
    """A worker that does all that it is given; what it did."""
    done = []
    while (job := queue.take(worker)) is not None:
        queue.put(worker, job, value)
        done.append(job)
    return done


def test_jobs_are_handed_out_in_order_and_once():
    queue = JobQueue(JOBS)
    assert [queue.take(f"rank {place}") for place in range(len(JOBS))] == JOBS
    assert queue.take("another") is None
    assert queue.results() == []


def test_a_result_counts_and_its_job_is_gone():
    queue = JobQueue(JOBS[:1])
    queue.put("rank 0", queue.take("rank 0"), 0.25)
    assert queue.take("rank 0") is None
    assert queue.results() == [(JOBS[0], 0.25)]


def test_what_a_worker_lost_comes_first_when_it_asks_again():
    queue = JobQueue(JOBS)
    queue.put("rank 0", queue.take("rank 0"), 0.5)
    held = [queue.take("rank 0"), queue.take("rank 1")]
    assert [queue.take("rank 0"), queue.take("rank 1")] == held
    assert drain(queue, "rank 2") == JOBS[3:]


def test_nothing_is_lost_when_only_the_first_worker_of_a_new_group_has_work():
    queue = JobQueue(JOBS[:2])
    queue.take("rank 0")
    queue.take("rank 1")
    assert drain(queue, "rank 0") == JOBS[:1]
    assert drain(queue, "rank 1") == JOBS[1:2]


def test_a_late_result_of_a_worker_that_was_given_up_counts_once():
    queue = JobQueue(JOBS[:1])
    late = queue.take("rank 0")
    job = queue.take("rank 0")
    queue.put("rank 0", tuple(late), 0.5)
    queue.put("rank 0", job, 0.5)
    assert queue.take("rank 0") is None
    assert queue.results() == [(job, 0.5)]


@pytest.mark.parametrize("seed", range(5))
def test_every_job_is_done_whatever_dies(seed):
    """Workers that take, finish, and die together at random: each job ends with its own result, none is held twice."""
    rng, queue, hands = random.Random(seed), JobQueue(JOBS), {}
    for _ in range(10_000):
        worker = f"rank {rng.randrange(3)}"
        if rng.random() < 0.1:
            hands.clear()
        elif worker in hands:
            job = hands.pop(worker)
            queue.put(worker, job, JOBS.index(job) / 100)
        elif (job := queue.take(worker)) is not None:
            assert job not in hands.values()
            hands[worker] = job
        if len(queue.results()) == len(JOBS):
            break
    assert dict(queue.results()) == {job: place / 100 for place, job in enumerate(JOBS)}
    assert [queue.take(f"rank {place}") for place in range(3)] == [None] * 3


def test_a_failure_ends_the_handing_out_and_loses_no_result():
    queue = JobQueue(JOBS)
    first, second = queue.take("rank 0"), queue.take("rank 1")
    queue.put("rank 0", first, 0.5)
    assert queue.failure() == ""
    queue.fail("no memory")
    queue.fail("no disk")
    assert queue.failure() == "no memory"
    assert [queue.take(f"rank {place}") for place in range(3)] == [None] * 3
    queue.put("rank 1", second, 0.25)
    assert queue.results() == [(first, 0.5), (second, 0.25)]


def test_only_new_results_are_told_each_once():
    """A worker that was given up may send its result again, after others."""
    queue = JobQueue(JOBS[:3])
    jobs = [queue.take(f"rank {place}") for place in range(3)]
    queue.put("rank 0", jobs[0], 0.5)
    assert queue.results(0) == [(jobs[0], 0.5)]
    queue.put("rank 1", jobs[1], 0.25)
    queue.put("rank 0", jobs[0], 0.5)
    assert queue.results(1) == [(jobs[1], 0.25)]
    assert queue.results(2) == []


def test_without_rungs_everyone_goes_on():
    queue = JobQueue(JOBS)
    assert all(queue.keep_training(job, 1, -place) for place, job in enumerate(JOBS))


def test_networks_are_compared_with_those_of_the_same_entry_and_seed():
    queue = JobQueue([], Rungs((1, 2), 2))
    values = {Job(entry, "MLP", seed): entry + 10 * seed for entry in range(2) for seed in range(2)}
    assert all(queue.keep_training(job, 1, value) for job, value in values.items())
    told = {job: queue.keep_training(job._replace(network="LeNet"), 1, 5) for job in values}
    assert told == {job: value <= 5 for job, value in values.items()}
    assert queue.keep_training(Job(1, "LeNet", 1), 2, 0)


def test_a_training_that_is_done_anew_is_told_the_same_at_its_rung():
    """Its worker died above the rung, which better ones have reached meanwhile."""
    queue = JobQueue([], Rungs((1,), 2))
    names = ["first", "better", "best"]
    assert [queue.keep_training(Job(0, name, 0), 1, value) for value, name in enumerate(names)] == [True] * 3
    assert queue.keep_training(tuple(Job(0, "first", 0)), 1, 0)
    assert not queue.keep_training(Job(0, "worst", 0), 1, 0)


def test_a_matrix_that_is_known_needs_no_ray(monkeypatch):
    class Known:
        def jobs(self):
            return list(JOBS)

    def refuse(*words):
        raise AssertionError("Ray was asked")

    monkeypatch.setattr("raydd.remote.train_matrix.resources", refuse)
    known = {job: Outcome(place / 12, 1.0) for place, job in enumerate(JOBS)}
    assert train_matrix(Known(), None, refuse, known, refuse) == known
