"""Welch's test, the bootstrap and Holm's adjustment against formulas, exact values and simulated samples."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from raydd.data.score_record import Score
from raydd.evaluation.significance import METHODS, bootstrap, compare_scores, holm, welch

SAMPLES = [
    ([0.71, 0.72, 0.69, 0.74, 0.70], [0.66, 0.69, 0.68, 0.65, 0.70]),
    ([0.5, 0.9], [0.55, 0.56, 0.54, 0.58, 0.551, 0.57]),
    ([0.31, 0.35, 0.29], [0.33, 0.33, 0.33, 0.33]),
    ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]),
]


def tail(t, freedom):
    """P(T > t) of Student's distribution: its density, integrated by Simpson's rule over atan."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    angles = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 20001)
    density = scale * math.sqrt(freedom) * np.cos(angles) ** (freedom - 1)
    weights = np.full(len(angles), 2.0)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    return float(weights @ density) * (angles[1] - angles[0]) / 3


def by_hand(a, b):
    a, b = np.array(a, np.float64), np.array(b, np.float64)
    v, w = (sum((x - x.mean()) ** 2) / (len(x) - 1) / len(x) for x in (a, b))
    freedom = (v + w) ** 2 / (v**2 / (len(a) - 1) + w**2 / (len(b) - 1))
    t = (a.mean() - b.mean()) / math.sqrt(v + w)
    return t, freedom, math.sqrt(v + w), 2 * tail(abs(t), freedom)


@pytest.mark.parametrize(("a", "b"), SAMPLES)
def test_welch_is_the_formula(a, b):
    _, freedom, error, p = by_hand(a, b)
    found = welch(a, b)
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b), abs=1e-15)
    assert found.freedom == pytest.approx(freedom, rel=1e-12)
    assert found.p == pytest.approx(p, abs=1e-6)
    # The interval's half is the point of the t distribution with 2.5 % above it.
    assert tail((found.high - found.difference) / error, freedom) == pytest.approx(0.025, abs=1e-6)
    assert found.high + found.low == pytest.approx(2 * found.difference, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [pair for pair in SAMPLES if len(set(pair[1])) > 1])
def test_welch_is_scipys(a, b):
    found, wanted = welch(a, b), stats.ttest_ind(a, b, equal_var=False)
    low, high = wanted.confidence_interval(0.95)
    expected = (wanted.pvalue, wanted.df, low, high)
    assert (found.p, found.freedom, found.low, found.high) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_welch_with_the_distribution_that_has_a_closed_form():
    # Equal variances of two and two: nu = 2, where P(|T| > t) = 1 - t / sqrt(2 + t^2), and t = 0.25 / sqrt(1 / 32).
    found = welch([0.5, 0.75], [0.25, 0.5])
    assert found.freedom == pytest.approx(2)
    assert found.p == pytest.approx(1 - math.sqrt(2) / 2)


def test_welch_is_the_same_both_ways_round():
    a, b = SAMPLES[0]
    one, other = welch(a, b), welch(b, a)
    assert (one.difference, one.low, one.p) == pytest.approx((-other.difference, -other.high, other.p))


@pytest.mark.parametrize("method", METHODS.values())
@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        ([0.75], [0.5, 0.25], 0.375),
        ([0.75, 0.5], [0.25], 0.375),
        ([0.75], [0.25], 0.5),
        ([0.9, 0.9, 0.9], [0.7, 0.7, 0.7], 0.2),
        ([0.1] * 3, [0.1] * 3, 0.0),
    ],
)
def test_no_test_without_variance(method, a, b, difference):
    found = method(a, b)
    assert found.difference == pytest.approx(difference, abs=1e-15)
    assert (found.low, found.high, found.p, found.freedom) == (None, None, None, None)


@pytest.mark.parametrize("method", METHODS.values())
def test_one_side_that_does_not_vary_is_tested(method):
    found = method([0.5, 0.6, 0.7, 0.8], [0.9, 0.9, 0.9])
    assert found.low < found.difference < found.high
    assert 0 < found.p < 0.2


@pytest.mark.parametrize("method", METHODS.values())
def test_what_is_no_sample_is_refused(method):
    with pytest.raises(ValueError, match="no accuracies"):
        method([], [0.5])
    with pytest.raises(ValueError, match="nan"):
        method([0.5, 0.6], [0.5, math.nan])


@pytest.mark.slow
def test_p_of_welch_is_uniform_where_nothing_differs():
    random = np.random.default_rng(5)
    draws = [(random.normal(0.7, 0.02, 5).tolist(), random.normal(0.7, 0.005, 5).tolist()) for _ in range(2000)]
    found = [welch(a, b) for a, b in draws]
    ps = np.array([each.p for each in found])
    for level in (0.05, 0.2, 0.5, 0.8):
        assert (ps < level).mean() == pytest.approx(level, abs=0.03)
    assert np.mean([each.low <= 0 <= each.high for each in found]) == pytest.approx(0.95, abs=0.02)


def test_p_of_the_bootstrap_is_near_uniform_with_many_values():
    random = np.random.default_rng(6)
    draws = [(random.normal(0.7, 0.02, 30).tolist(), random.normal(0.7, 0.01, 30).tolist()) for _ in range(400)]
    found = [bootstrap(a, b, seed, 999) for seed, (a, b) in enumerate(draws)]
    ps = np.array([each.p for each in found])
    for level in (0.05, 0.2, 0.5, 0.8):
        assert (ps < level).mean() == pytest.approx(level, abs=0.05)
    assert np.mean([each.low <= 0 <= each.high for each in found]) == pytest.approx(0.94, abs=0.03)


def test_the_bootstrap_against_all_its_draws():
    """With four values a side there are 256 x 256 equally likely draws; the interval and p follow from them."""
    a, b = [0.5, 0.61, 0.73, 0.92], [0.55, 0.57, 0.64, 0.5]
    means = [np.array([sum(drawn) / 4 for drawn in product(values, repeat=4)]) for values in (a, b)]
    every = np.subtract.outer(*means).ravel()
    low, high = np.quantile(every, [0.025, 0.975])
    found = bootstrap(a, b, 1, 40_000)
    assert found.p == pytest.approx(2 * np.mean(every <= 1e-12), abs=0.01)
    assert 0.02 < found.p < 0.5
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)


def test_the_bootstrap_follows_its_seed():
    a, b = SAMPLES[0]
    assert bootstrap(a, b, 3, 500) == bootstrap(a, b, 3, 500)
    assert bootstrap(a, b, 3, 500) != bootstrap(a, b, 4, 500)
    assert bootstrap([0.9, 0.8, 0.85], [0.1, 0.2, 0.15], 0, 999).p == 2 / 1000


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([]) == []


def test_holm_errs_seldom_over_the_whole_family():
    random = np.random.default_rng(2)
    families = random.uniform(size=(2000, 6))
    wrong = np.mean([min(holm(family.tolist())) < 0.05 for family in families])
    assert wrong == pytest.approx(0.05, abs=0.015)
    assert np.mean(families.min(axis=1) < 0.05) > 0.2


def record(name, kind, values, network="ConvNet", protocol="mtt", ipc=None):
    mean, std = sum(values) / len(values), np.std(values, ddof=1) if len(values) > 1 else None
    names = {"name": name, "kind": kind, "network": network, "protocol": protocol, "dataset": "digits"}
    return Score(**names, selection="honest", ipc=ipc, networks=len(values), mean=mean, std=std, values=tuple(values))


RECORDS = [
    record("a", "distilled", [0.71, 0.72, 0.69, 0.74]),
    record("b", "distilled", [0.75, 0.76, 0.73, 0.77]),
    record("random, 10 a class", "random", [0.5, 0.52, 0.48, 0.55]),
    record("k-means", "kmeans", [0.6]),
    record("whole data", "whole", [0.9, 0.91, 0.92, 0.9]),
    record("a", "distilled", [0.3, 0.4, 0.35, 0.31], network="MLP"),
    record("random, 10 a class", "random", [0.2, 0.3, 0.25, 0.21], network="MLP"),
]


def test_scores_are_compared_network_by_network():
    found = compare_scores(RECORDS)
    pairs = [(row.network, row.first, row.second) for row in found]
    assert pairs == [
        ("ConvNet", "a", "b"),
        ("ConvNet", "a", "k-means"),
        ("ConvNet", "b", "k-means"),
        ("ConvNet", "b", "random, 10 a class"),
        ("MLP", "a", "random, 10 a class"),
    ]
    assert [row.best_baseline for row in found] == [False, True, True, False, True]
    wanted = welch(RECORDS[0].values, RECORDS[1].values)
    keys = ("difference", "low", "high", "p", "freedom")
    assert [getattr(found[0], key) for key in keys] == [getattr(wanted, key) for key in keys]
    assert found[0].p_adjusted == pytest.approx(wanted.p)  # the larger of the two that were tested
    assert found[3].p_adjusted == pytest.approx(2 * found[3].p)
    assert (found[2].p, found[2].p_adjusted, found[2].counts) == (None, None, (4, 1))
    assert found[2].difference == pytest.approx(0.1525)
    assert found[4].p_adjusted == found[4].p


def test_asked_sets_may_be_of_any_kind():
    found = compare_scores(RECORDS, requested=["a", "random, 10 a class"])
    assert [(row.first, row.second) for row in found] == [
        ("a", "random, 10 a class"),
        ("a", "k-means"),
        ("random, 10 a class", "k-means"),
        ("a", "random, 10 a class"),
    ]


def test_the_bootstrap_compares_as_well():
    found = compare_scores(RECORDS, "bootstrap")
    assert {row.method for row in found} == {"bootstrap"}
    assert found[3].low == bootstrap(RECORDS[1].values, RECORDS[2].values).low
    assert found[3].freedom is None


def test_protocols_are_not_mixed():
    records = [RECORDS[0], record("b", "distilled", [0.7, 0.8], protocol="dm")]
    assert compare_scores(records) == []
    assert compare_scores(RECORDS[2:5]) == []


def test_an_unknown_test_is_refused():
    with pytest.raises(ValueError, match=r"unknown test 'anova'; use one of welch, bootstrap"):
        compare_scores(RECORDS, "anova")


def row(name, kind, ipc, values):
    return record(name, kind, values, "MLP", ipc=ipc)


def test_each_set_is_compared_with_the_best_baseline_of_its_size_and_the_best_set_with_all():
    rows = [row("one", "distilled", 1, [0.3, 0.31]), row("three", "distilled", 3, [0.6, 0.61])]
    rows += [row("also one", "distilled", 1, [0.4, 0.41]), row("random 1", "random", 1, [0.2, 0.21])]
    rows += [row("kmeans mosaics 1", "kmeans-mosaic", 1, [0.25, 0.26]), row("random 3", "random", 3, [0.5, 0.51])]
    rows += [row("random 9", "random", 9, [0.7, 0.71]), row("whole", "whole", None, [0.9, 0.91])]
    found = compare_scores(rows)
    assert [(each.first, each.second, each.best_baseline) for each in found] == [
        ("one", "three", False),
        ("one", "also one", False),
        ("three", "also one", False),
        ("one", "kmeans mosaics 1", True),
        ("three", "random 3", True),
        ("also one", "kmeans mosaics 1", True),
        ("also one", "random 1", False),
    ]
    assert [each.p_adjusted for each in found] == holm(each.p for each in found)


def test_of_equal_baselines_the_first_is_the_best():
    rows = [row("set", "distilled", 1, [0.3, 0.4])]
    rows += [row(name, "random", 1, values) for name, values in (("a", [0.2, 0.3]), ("b", [0.1, 0.4]))]
    assert [(found.second, found.best_baseline) for found in compare_scores(rows)] == [("a", True), ("b", False)]


@pytest.mark.slow
def test_the_best_of_many_equal_baselines_makes_no_set_look_better_than_it_is():
    """The rival is the luckiest of five: under the null a set beats it significantly less often than one test would."""
    random = np.random.default_rng(3)
    better = 0
    for _ in range(600):
        draws = [random.normal(0.7, 0.02, 5).tolist() for _ in range(6)]
        rows = [row("set", "distilled", 1, draws[0])]
        rows += [row(f"random {place}", "random", 1, values) for place, values in enumerate(draws[1:])]
        best = next(found for found in compare_scores(rows) if found.best_baseline)
        better += best.difference > 0 and best.p < 0.05
    assert better / 600 < 0.025
