"""Numbers of a run's logs."""

from raydd.analysis.runs import reading


def test_what_is_no_finite_number_was_not_measured():
    assert [reading(value) for value in ("inf", "nan", None, "x", 1, "0.5")] == [None, None, None, None, 1.0, 0.5]
