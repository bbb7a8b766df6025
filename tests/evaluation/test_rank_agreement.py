"""Agreement of rankings against definitions written out pair by pair, exact tables and hand values."""

import json
import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from raydd.evaluation.rank_agreement import (
    agreement,
    best,
    kendall,
    regret,
    spearman,
    spearman_interval,
    spearman_p,
    top_overlap,
    top_spearman,
)


def average_ranks(values):
    """By counting: one more than are below, and half a place for each that is equal."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


def pearson(a, b):
    a, b = np.array(a, np.float64), np.array(b, np.float64)
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def tau_b(a, b):
    n, score, ties_a, ties_b = len(a), 0, 0, 0
    for i in range(n):
        for j in range(i):
            x, y = (a[i] > a[j]) - (a[i] < a[j]), (b[i] > b[j]) - (b[i] < b[j])
            score, ties_a, ties_b = score + x * y, ties_a + (x == 0), ties_b + (y == 0)
    pairs = n * (n - 1) / 2
    return score / math.sqrt((pairs - ties_a) * (pairs - ties_b))


def sample(seed, size, levels):
    """Scores with ties: as many levels as given."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, levels, size) / levels
    return (truth + random.integers(0, levels, size) / levels).tolist(), truth.tolist()


@pytest.mark.parametrize("levels", [3, 10, 10_000])
@pytest.mark.parametrize("size", [6, 25, 80])
def test_correlations_are_the_definitions(size, levels):
    a, b = sample(size, size, levels)
    assert spearman(a, b) == pytest.approx(pearson(average_ranks(a), average_ranks(b)), abs=1e-11)
    assert kendall(a, b) == pytest.approx(tau_b(a, b), abs=1e-11)


def test_spearman_by_the_sum_of_squared_differences():
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * 4 / (5 * 24) = 0.8. Two of ten pairs are discordant.
    assert spearman([1, 2, 3, 4, 5], [0.2, 0.1, 0.4, 0.3, 0.5]) == 0.8
    assert kendall([1, 2, 3, 4, 5], [0.2, 0.1, 0.4, 0.3, 0.5]) == 0.6
    assert spearman([1, 2, 3], [3, 2, 1]) == -1.0


@pytest.mark.parametrize("measure", [spearman, kendall, spearman_p, spearman_interval])
@pytest.mark.parametrize(("a", "b"), [([], []), ([0.5], [0.5]), ([0.5] * 4, [1, 2, 3, 4]), ([1, 2, 3], [(1,)] * 3)])
def test_what_is_not_defined_is_none(measure, a, b):
    assert measure(a, b) is None


@pytest.mark.parametrize("measure", [spearman, kendall, spearman_p, spearman_interval])
def test_what_does_not_pair_is_refused(measure):
    with pytest.raises(ValueError, match="2 and 3 scores do not pair"):
        measure([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="has no rank"):
        measure([0.5, math.nan], [1, 2])
    with pytest.raises(ValueError, match="do not compare"):
        measure([0.5, (1, 0.5)], [1, 2])


def test_what_was_stopped_early_ranks_below_all_that_went_on():
    rungs = [(0, 0.9), (0, 0.8), (1, 0.3), (2, 0.2), (2, 0.1)]
    assert average_ranks(rungs) == [2, 1, 3, 5, 4]
    truth = [0.2, 0.1, 0.3, 0.5, 0.4]
    assert spearman(rungs, truth) == 1.0
    assert kendall(rungs, truth) == 1.0
    assert spearman([score[1] for score in rungs], truth) < 0
    names = dict(zip("abcde", rungs, strict=True))
    assert best(names, 3) == ["d", "e", "c"]


def test_p_of_spearman_against_published_tables():
    # Critical values for two sides, n = 5: 1.000 at 0.02 (2 of 120 orders), 0.900 at 0.10 (10 of 120).
    assert spearman_p([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == pytest.approx(2 / 120)
    assert spearman_p([1, 2, 3, 4, 5], [2, 1, 3, 4, 5]) == pytest.approx(10 / 120)
    assert spearman_p([1, 2, 3], [3, 2, 1]) == pytest.approx(2 / 6)
    assert spearman_p([1, 2], [1, 2]) is None


def test_p_of_spearman_with_ties_goes_through_all_orders():
    a, b = [1, 1, 2, 3, 3, 4], [0.1, 0.3, 0.3, 0.2, 0.5, 0.5]
    found = [abs(pearson(average_ranks(a), average_ranks(order))) for order in permutations(b)]
    wanted = np.mean([value >= abs(spearman(a, b)) - 1e-9 for value in found])
    assert spearman_p(a, b) == pytest.approx(wanted)


def test_p_of_many_is_that_of_the_t_distribution():
    a, b = sample(4, 40, 1000)
    r = spearman(a, b)
    t = r * math.sqrt(38 / (1 - r**2))
    assert spearman_p(a, b) == pytest.approx(2 * stats.t.sf(abs(t), 38), rel=1e-6)


def test_the_interval_covers_the_correlation():
    random = np.random.default_rng(8)
    truth = 6 / math.pi * math.asin(0.7 / 2)  # Spearman's of two normal variables with correlation 0.7
    covered = 0
    for seed in range(100):
        a, noise = random.normal(size=(2, 60))
        low, high = spearman_interval(a.tolist(), (0.7 * a + math.sqrt(0.51) * noise).tolist(), seed, 200)
        covered += low <= truth <= high
    assert covered / 100 == pytest.approx(0.94, abs=0.05)


def test_the_interval_is_that_of_samples_drawn_again():
    """Against scipy's own bootstrap, with its own generator."""
    a, b = (np.array(side) for side in sample(3, 50, 100))

    def statistic(x, y, axis):
        ranks = stats.rankdata(x, axis=axis), stats.rankdata(y, axis=axis)
        x, y = (rank - rank.mean(axis=axis, keepdims=True) for rank in ranks)
        return (x * y).sum(axis) / np.sqrt((x**2).sum(axis) * (y**2).sum(axis))

    wanted = stats.bootstrap((a, b), statistic, paired=True, n_resamples=4000, method="percentile", vectorized=True)
    ends = wanted.confidence_interval
    assert spearman_interval(a.tolist(), b.tolist(), 0, 2000) == pytest.approx((ends.low, ends.high), abs=0.03)


def test_the_interval_follows_its_seed():
    a, b = sample(5, 20, 1000)
    assert spearman_interval(a, b, 1, 200) == spearman_interval(a, b, 1, 200)
    assert spearman_interval(a, b, 1, 200) != spearman_interval(a, b, 2, 200)


PROXY = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.5, "f": 0.4}
TRUTH = {"a": 0.5, "b": 0.95, "c": 0.6, "d": 0.97, "e": 0.3, "f": 0.98}


def test_overlap_and_regret_by_hand():
    # By real accuracy: f d b c a e.
    assert top_overlap(PROXY, TRUTH, 3) == pytest.approx(1 / 3)
    assert top_overlap(PROXY, TRUTH, 5) == pytest.approx(4 / 5)
    assert top_overlap(PROXY, TRUTH, 6) == 1.0
    assert regret(PROXY, TRUTH, 3) == pytest.approx(0.98 - 0.95)
    assert regret(PROXY, TRUTH, 1) == pytest.approx(0.98 - 0.5)
    assert regret(PROXY, TRUTH, 6) == 0.0


def test_the_top_by_the_proxy_and_by_the_truth():
    # The proxy's best a b c d have real ranks 1 3 2 4 from below: 1 - 6 sum d^2 / 60 with d = 3, 0, 0, 3.
    assert top_spearman(PROXY, TRUTH, 4) == pytest.approx(1 - 6 * 18 / 60)
    # The truly best f d b c have proxy ranks 1 2 4 3 from below against 4 3 2 1: d = 3, 1, 2, 2.
    assert top_spearman(PROXY, TRUTH, 4, "truth") == pytest.approx(1 - 6 * 18 / 60)
    # The proxy's a b c: real ranks 1 3 2 against 3 2 1, d = 2, 1, 1. The truth's f d b: 1 2 3 against 3 2 1.
    assert top_spearman(PROXY, TRUTH, 3) == pytest.approx(-0.5)
    assert top_spearman(PROXY, TRUTH, 3, "truth") == pytest.approx(-1.0)


def test_the_order_of_the_mappings_matters_only_for_ties():
    shuffled = {name: TRUTH[name] for name in "fbdaec"}
    for measure in (top_overlap, top_spearman, regret):
        assert measure(PROXY, shuffled, 4) == measure(PROXY, TRUTH, 4)
    flat = dict.fromkeys("abcd", 0.5)
    assert best(flat, 2) == ["a", "b"]
    assert top_overlap(flat, {"d": 0.9, "c": 0.8, "b": 0.1, "a": 0.2}, 2) == 0.0
    assert top_overlap(flat, dict.fromkeys("dcba", 0.5), 2) == 1.0


@pytest.mark.parametrize("measure", [top_overlap, top_spearman, regret])
def test_a_top_that_is_larger_than_the_sample_is_none(measure):
    assert measure(PROXY, TRUTH, 7) is None
    with pytest.raises(ValueError, match="only one ranking has the architecture 'f'"):
        measure(PROXY, {name: TRUTH[name] for name in "abcde"}, 2)


def test_agreement_holds_every_measure():
    proxy = PROXY | {"only here": 0.99}
    truth = TRUTH | {"only there": 1.0, "nor here": 0.1}
    found = agreement(proxy, truth, (3, 6, 10), seed=4)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    scores = list(PROXY.values()), list(TRUTH.values())
    assert (found["architectures"], found["left_out"]) == (6, 3)
    assert (found["spearman"], found["kendall"]) == (spearman(*scores), kendall(*scores))
    assert found["spearman_p"] == spearman_p(*scores)
    assert (found["spearman_low"], found["spearman_high"]) == spearman_interval(*scores, 4)
    assert (found["best"], found["best_accuracy"]) == ("f", 0.98)
    three, six, ten = found["tops"]
    assert three == {
        "k": 3,
        "overlap": top_overlap(PROXY, TRUTH, 3),
        "spearman": -0.5,
        "spearman_p": 1.0,
        "spearman_of_true_best": -1.0,
        "regret": pytest.approx(0.03),
        "names": ["a", "b", "c"],
        "found": "b",
        "found_accuracy": 0.95,
    }
    assert (six["spearman"], six["overlap"], six["regret"]) == (found["spearman"], 1.0, 0.0)
    assert ten.pop("k") == 10
    assert set(ten.values()) == {None}


def test_agreement_of_tuples():
    truth = {name: place / 10 for place, name in enumerate("abcdefgh")}
    proxy = {name: (int(name > "d"), 1 - truth[name] if name <= "d" else truth[name]) for name in truth}
    found = agreement(proxy, truth, (4,))
    assert found["tops"][0]["spearman"] == 1.0
    assert found["tops"][0]["overlap"] == 1.0
    assert found["spearman"] == pytest.approx(1 - 6 * 20 / (8 * 63))


def test_agreement_of_little_and_of_nothing():
    found = agreement({"a": 0.5}, {"a": 0.25}, (1, 5))
    assert (found["spearman"], found["kendall"], found["spearman_low"]) == (None, None, None)
    assert found["tops"][0]["found_accuracy"] == 0.25
    with pytest.raises(ValueError, match="no architecture in common"):
        agreement({"a": 0.5}, {"b": 0.5})
    with pytest.raises(ValueError, match="the top 0 has no architectures"):
        agreement(PROXY, TRUTH, (5, 0))
