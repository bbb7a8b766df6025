"""Where work is done: refusals before Ray is loaded."""

import pytest

from raydd.config.placement import check_share


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
