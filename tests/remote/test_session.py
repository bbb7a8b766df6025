"""How many workers are started: pure decisions, no Ray."""

import pytest

from raydd.config.placement import check_share
from raydd.remote.session import Node, Plan, plan, spread


@pytest.mark.rows(
    ("asked", "jobs", "cpus", "workers"),
    [(None, 10, 2, 2), (None, 1, 8, 1), (1, 10, 2, 1), (2, 10, 2, 2), (8, 10, 2, 2), (8, 3, 16, 3), (3, 0, 4, 1)],
)
def test_workers_are_never_more_than_cpus_or_jobs(asked, jobs, cpus, workers):
    found = plan(asked, jobs, cpus, 0.0)
    assert (found.workers, found.cpus, found.gpus) == (workers, 1, 0.0)


@pytest.mark.rows("asked", [None, 1, 2])
def test_what_fits_needs_no_note(asked):
    assert plan(asked, 10, 2, 0.0).note == ""


def test_more_workers_than_cpus_is_said():
    assert plan(8, 10, 2, 0.0) == Plan(2, 1, 0.0, "8 workers requested, the machine has 2 CPUs: running 2")


def test_more_workers_than_jobs_is_said():
    assert plan(4, 3, 16, 0.0).note == "4 workers requested, 3 jobs left: running 3"


@pytest.mark.rows(
    ("asked", "gpus", "share"), [(1, 1.0, 1.0), (2, 1.0, 0.5), (4, 1.0, 0.25), (4, 2.0, 0.5), (2, 8.0, 1.0)]
)
def test_workers_share_gpus_that_are_fewer(asked, gpus, share):
    found = plan(asked, 100, 16, gpus)
    assert (found.workers, found.gpus) == (asked, share)
    assert found.workers * found.gpus <= gpus


@pytest.mark.rows("asked", [0, -1])
def test_fewer_than_one_worker_is_refused(asked):
    with pytest.raises(ValueError, match=f"--num-workers {asked}: at least 1"):
        plan(asked, 1, 2, 0.0)


def test_a_cluster_without_cpus_is_refused():
    with pytest.raises(ValueError, match="no free CPU"):
        plan(None, 1, 0, 4.0)


NODES = [Node(4, 2), Node(2, 0), Node(1, 1)]  # two GPUs, none, one


@pytest.mark.rows(
    ("asked", "share", "workers"),
    [
        (None, 1.0, 3),  # 2 + 0 + 1
        (None, 0.5, 5),  # 4 + 0 + 1: the last node has one CPU
        (None, 0.25, 5),
        (None, 2.0, 1),  # only the first has two
        (2, 0.25, 2),
        (9, 1.0, 3),
    ],
)
def test_a_worker_fits_on_one_node_with_its_gpus(asked, share, workers):
    found = spread(asked, 100, NODES, True, share)
    assert (found.workers, found.cpus, found.gpus) == (workers, 1, share)


@pytest.mark.rows(
    ("cpus", "gpus", "share", "workers"),
    [(16, 2, 0.3, 6), (16, 2, 0.4, 4), (16, 1.5, 0.5, 3), (16, 1.5, 0.6, 1), (16, 0.5, 0.6, 0), (16, 8, 3, 2)],
)
def test_a_part_of_a_gpu_is_of_one_gpu(cpus, gpus, share, workers):
    """Three tenths fit three times on each of two GPUs, not six and a half times on both."""
    nodes = [Node(cpus, gpus)]
    if not workers:
        with pytest.raises(ValueError, match=r"no free CPU and 0\.6 GPU on one node for a worker; wait"):
            spread(None, 100, nodes, True, share)
    else:
        assert spread(None, 100, nodes, True, share).workers == workers


def test_work_on_cpus_takes_every_node_and_whole_cpus_of_each():
    assert spread(None, 100, [Node(1.5, 1), Node(2.5, 0), Node(0.5, 0)], False) == Plan(3, 1, 0.0, "")


@pytest.mark.rows(("asked", "workers", "share"), [(None, 5, 0.5), (3, 3, 1.0), (4, 4, 0.5), (100, 5, 0.5)])
def test_gpus_of_several_nodes_are_shared_as_far_as_is_needed(asked, workers, share):
    found = spread(asked, 100, NODES, True)
    assert (found.workers, found.gpus) == (workers, share)


def test_more_workers_than_the_nodes_carry_is_said():
    assert spread(8, 20, NODES, True, 0.5).note == "8 workers requested, the cluster has resources for 5: running 5"
    assert (
        spread(8, 20, [Node(16, 1)], True, 0.25).note
        == "8 workers requested, the cluster has resources for 4: running 4"
    )


@pytest.mark.rows("share", [0.0, -1.0, 1.5, float("inf"), float("nan")])
def test_gpus_a_worker_that_make_no_sense(share):
    with pytest.raises(ValueError, match=rf"^--gpus-per-worker {share:g}: give a part of a GPU such as 0.25"):
        check_share(share, "cuda")


def test_gpus_a_worker_need_a_gpu():
    for share in (None, 0.25, 1.0, 2.0):
        check_share(share, "cuda")
    check_share(None, "cpu")
    with pytest.raises(ValueError, match=r"^--gpus-per-worker 0.25: the work is done on CPUs; leave it out"):
        check_share(0.25, "cpu")
