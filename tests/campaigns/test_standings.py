"""Places of rows: what can be told apart, and ties."""

import pytest
from scipy.stats import ttest_ind

from raydd.campaigns.standings import standings


def test_rows_that_cannot_be_told_apart_share_a_place():
    rows = {
        "best": [0.80, 0.81, 0.82],
        "close": [0.79, 0.81, 0.80],
        "second": [0.60, 0.61, 0.62],
        "also second": [0.60, 0.62, 0.61],
        "one set": [0.3],
        "last": [0.1, 0.11, 0.12],
    }
    found = {one.row: one for one in standings(rows)}
    places = {row: one.place for row, one in found.items()}
    assert places == {"best": 1, "close": 1, "second": 2, "also second": 2, "one set": 2, "last": 3}
    assert next(iter(found)) == "best"


def test_the_interval_and_the_test_are_welchs_with_holms_adjustment():
    rows = {"a": [0.80, 0.82, 0.84], "b": [0.79, 0.80, 0.83], "c": [0.1, 0.12, 0.13]}
    leader, second, _ = standings(rows)
    test = ttest_ind(rows["a"], rows["b"], equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert (leader.row, leader.behind, leader.p, second.row) == ("a", 0.0, None, "b")
    assert (second.low, second.high) == pytest.approx((low, high), rel=1e-12)
    assert second.behind == pytest.approx(sum(rows["a"]) / 3 - sum(rows["b"]) / 3)
    assert second.p == pytest.approx(test.pvalue), "the larger of two p values is not raised"


def test_no_row_has_a_better_place_than_one_of_a_higher_mean():
    """The third has so wide a spread that nothing tells it from the first, but it is below the second, which is not."""
    rows = {"first": [0.90, 0.91, 0.92], "second": [0.80, 0.81, 0.82], "wide": [0.40, 0.95, 0.90]}
    assert [(one.row, one.place) for one in standings(rows)] == [("first", 1), ("second", 2), ("wide", 2)]


def test_rows_without_spread_are_ties_only_of_their_own_value():
    assert [(one.row, one.place) for one in standings({"a": [0.5, 0.5], "b": [0.4, 0.4]})] == [("a", 1), ("b", 1)]
    assert standings({}) == []
