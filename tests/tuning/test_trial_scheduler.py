import pytest

from raydd.io import console
from raydd.tuning.space_files import make_space
from raydd.tuning.study import Study
from raydd.tuning.trial_scheduler import TrialScheduler

SPACE = make_space(
    {
        "method": "dm",
        "set": {"steps": 40},
        "domains": {"lr.images": {"log_uniform": [0.1, 10]}},
        "search": {"algorithm": "random", "first": "none"},
        "scheduler": {"name": "asha", "grace": 1, "reduction": 2},
        "budget": {"samples": 4, "reports": 4},
    }
)


def report(index, accuracy):
    return {"index": index, "step": 10 * index, "accuracy": accuracy, "seconds": 1.0, "loss": 0.5, "memory_mb": 1.0}


@pytest.fixture
def open_desk(tmp_path, monkeypatch):
    """A trials on one file, the statuses it showed, and its clock."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    def make(total=4):
        shown = []
        return TrialScheduler(Study(SPACE, tmp_path / "study.journal"), total, shown.append), shown

    return make, now


def test_trials_are_handed_out_told_of_and_ended(open_desk):
    make, now = open_desk
    trials, shown = make(total=3)
    asks = [trials.next() for _ in range(4)]
    assert [ask and ask.number for ask in asks] == [0, 1, 2, None]
    now[0] = 10.0
    assert not trials.report(0, report(1, 0.6))  # alone at its rung
    assert (shown[-1].done, shown[-1].total, shown[-1].note) == (0, 3, "")
    assert shown[-1].rows[0].step == 10
    assert shown[-1].seconds_left is None  # the first report alone, after whatever came before it, is no pace
    assert trials.report(1, report(1, 0.1))
    assert shown[-1].note == "trial 1: stopped early at step 10 with 10.0 %"
    trials.complete(1, report(1, 0.1))  # Tune tells of its end too
    trials.complete(0, report(4, 0.7))
    trials.complete(2, {"failed": "ValueError: no"})
    assert [row.state for row in shown[-1].rows] == ["complete", "pruned", "failed"]
    assert (shown[-1].done, shown[-1].note) == (3, "trial 2 failed: ValueError: no")
    records = trials.study.records()
    assert [record.state for record in records] == ["complete", "pruned", "failed"]
    assert (records[0].metrics["accuracy"], records[2].error) == (0.7, "ValueError: no")
    assert sum(bool(status.note) for status in shown) == 3


def test_what_was_left_unfinished_comes_first_and_a_longer_search_goes_on(open_desk):
    make, _ = open_desk
    first, _ = make()
    asked = [first.next() for _ in range(2)]
    first.complete(0, report(4, 0.5))
    second, shown = make(total=4)
    assert second.left == 3
    again = [second.next() for _ in range(4)]
    assert again[0] == asked[1]
    assert [ask and ask.number for ask in again] == [1, 2, 3, None]
    second.fail(1, "gone")
    assert shown[-1].done == 2
    third, _ = make(total=1)  # fewer than there are: what is unfinished is finished
    assert (third.left, third.next().number) == (2, 2)
