"""The evaluator's jobs: handed out, taken back, never lost and never doubled; no Ray."""

import random

import pytest

from raydd.config.placement import HERE
from raydd.evaluation.jobs import Failure, Job, Outcome
from raydd.evaluation.successive_halving import Rungs
from raydd.remote.job_queue import Checkpoints, JobQueue
from raydd.remote.queue_actor import QueueActor
from raydd.remote.train_matrix import train_matrix

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


def test_a_stop_ends_the_handing_out_and_loses_no_result():
    queue = JobQueue(JOBS)
    first, second = queue.take("rank 0"), queue.take("rank 1")
    queue.put("rank 0", first, 0.5)
    assert queue.counts().stopped == ""
    queue.stop("no memory")
    queue.stop("no disk")
    assert queue.counts().stopped == "no memory"
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

    monkeypatch.setattr("raydd.remote.training_workers.demand_for", refuse)
    known = {job: Outcome(place / 12, 1.0) for place, job in enumerate(JOBS)}
    assert train_matrix(Known(), HERE, refuse, known, refuse) == known


def test_a_training_that_fails_is_recorded_and_the_others_go_on():
    queue = JobQueue(JOBS[:3])
    queue.fail("rank 0", queue.take("rank 0"), "no images")
    assert drain(queue) == JOBS[1:3]
    assert dict(queue.results())[JOBS[0]] == Failure("no images")
    assert queue.counts() == (0, 0, 0, "")


def test_out_of_memory_is_tried_once_more_by_a_worker_of_its_own():
    queue = JobQueue(JOBS[:3])
    for place in range(2):
        queue.fail("rank 0", queue.take("rank 0"), f"out of memory {place}", memory=True)
    assert queue.reasons() == {job: f"out of memory {job.seed}; not tried again alone" for job in JOBS[:2]}
    assert drain(queue) == JOBS[2:3]
    assert queue.counts() == (0, 2, 0, "")
    queue.put("alone 0", queue.take("alone 0", alone=True), 0.25)
    queue.fail("alone 0", queue.take("alone 0", alone=True), "out of memory", memory=True)
    assert queue.take("alone 0", alone=True) is None
    assert dict(queue.results()) == {JOBS[0]: 0.25, JOBS[1]: Failure("out of memory, also alone"), JOBS[2]: 0.5}
    assert queue.reasons() == {}


def test_a_job_whose_lone_worker_died_waits_for_another_lone_worker():
    queue = JobQueue(JOBS[:1])
    queue.fail("rank 0", queue.take("rank 0"), "out of memory", memory=True)
    queue.take("alone 0", alone=True)
    queue.lose("alone 0", "node", "its node has died")
    assert (queue.take("rank 0"), queue.take("alone 0", alone=True)) == (None, JOBS[0])


@pytest.mark.parametrize(
    ("loss", "times", "alone"), [("worker", 3, True), ("node", 10, False), ("memory", 2, True)], ids=str
)
def test_a_training_whose_workers_die_fails_after_some_times(loss, times, alone):
    queue = JobQueue(JOBS[:2])
    for attempt in range(times):
        last = alone and attempt == times - 1
        assert queue.take("g 0", alone=last) == JOBS[0]
        queue.lose("g 0", loss, "killed")
    assert queue.take("g 0") == JOBS[1]
    assert queue.take("g 1", alone=True) is None
    ((job, failure),) = queue.results()
    assert job == JOBS[0]
    assert "killed" in failure.reason


def test_the_other_workers_of_a_group_that_ended_lose_no_job_and_are_not_blamed():
    queue = JobQueue(JOBS[:4])
    held = [queue.take(f"group-1 {rank}") for rank in range(2)] + [queue.take("group-10 0")]
    queue.lose("group-1 0", "worker", "killed")
    queue.release("group-1")
    assert {queue.take("group-2 0"), queue.take("group-2 1")} == set(held[:2])
    assert drain(queue, "group-2 2") == JOBS[3:4]
    assert queue.counts().running == 3


@pytest.mark.parametrize(("share", "ended"), [(0.5, 10), (0.8, 10), (1.0, 12), (0.0, 10)])
def test_an_evaluation_ends_early_only_past_a_share_of_failures(share, ended):
    """Of twelve trainings the first nine fail."""
    queue = JobQueue(JOBS, most_failed=share)
    for place in range(len(JOBS)):
        if (job := queue.take("rank 0")) is None:
            break
        queue.fail("rank 0", job, "broken") if place < 9 else queue.put("rank 0", job, 0.5)
    assert len(queue.results()) == ended
    assert (queue.counts().stopped != "") == (ended == 10)


def test_a_training_has_its_last_checkpoint_until_it_ends():
    held = Checkpoints(lambda state: [state], lambda reference: reference[0])
    held.save(tuple(JOBS[0]), {"epoch": 1})
    held.save(JOBS[0], {"epoch": 2})
    assert (held.load(JOBS[0]), held.load(JOBS[1])) == ({"epoch": 2}, None)
    held.drop(JOBS[0])
    assert held.load(JOBS[0]) is None


def test_the_first_trainings_leave_room_until_the_queue_is_complete():
    queue = QueueActor()
    assert queue.take("rank 0") is None
    assert queue.given() == ([], False)
    queue.begin(["early"], {}, JOBS[:3], most_running=1)
    assert queue.given() == (["early"], False)
    assert [queue.take("rank 0"), queue.take("rank 1")] == [JOBS[0], None]
    assert queue.take("rank 0") == JOBS[0], "it was lost, and comes again"
    queue.put("rank 0", JOBS[0], 0.5)
    assert queue.take("rank 1") == JOBS[1]
    queue.complete(["all"], JOBS[3:5])
    assert queue.given() == (["all"], True)
    assert drain(queue, "rank 0") == JOBS[2:5]
    queue.put("rank 1", JOBS[1], 0.5)
    assert sorted(job for job, _ in queue.results()) == JOBS[:5]
    queue.begin(["others"], {}, JOBS[5:])
    assert queue.given() == (["others"], True)
    assert [queue.take(f"rank {place}") for place in range(2)] == JOBS[5:7]
