"""How many workers are started: pure decisions, no Ray."""

import pytest

from raydd.remote.session import Plan, plan


@pytest.mark.parametrize(
    ("asked", "jobs", "cpus", "workers"),
    [(None, 10, 2, 2), (None, 1, 8, 1), (1, 10, 2, 1), (2, 10, 2, 2), (8, 10, 2, 2), (8, 3, 16, 3), (3, 0, 4, 1)],
)
def test_workers_are_never_more_than_cpus_or_jobs(asked, jobs, cpus, workers):
    found = plan(asked, jobs, cpus, 0.0)
    assert (found.workers, found.cpus, found.gpus) == (workers, 1, 0.0)


@pytest.mark.parametrize("asked", [None, 1, 2])
def test_what_fits_needs_no_note(asked):
    assert plan(asked, 10, 2, 0.0).note == ""


def test_more_workers_than_cpus_is_said():
    assert plan(8, 10, 2, 0.0) == Plan(2, 1, 0.0, "8 workers asked, the machine has 2 CPUs: running 2")


def test_more_workers_than_jobs_is_said():
    assert plan(4, 3, 16, 0.0).note == "4 workers asked, 3 jobs left: running 3"


@pytest.mark.parametrize(
    ("asked", "gpus", "share"), [(1, 1.0, 1.0), (2, 1.0, 0.5), (4, 1.0, 0.25), (4, 2.0, 0.5), (2, 8.0, 1.0)]
)
def test_workers_share_gpus_that_are_fewer(asked, gpus, share):
    found = plan(asked, 100, 16, gpus)
    assert (found.workers, found.gpus) == (asked, share)
    assert found.workers * found.gpus <= gpus


@pytest.mark.parametrize("asked", [0, -1])
def test_fewer_than_one_worker_is_refused(asked):
    with pytest.raises(ValueError, match=f"--num-workers {asked}: at least 1"):
        plan(asked, 1, 2, 0.0)


def test_a_cluster_without_cpus_is_refused():
    with pytest.raises(ValueError, match="no free CPU"):
        plan(None, 1, 0, 4.0)
