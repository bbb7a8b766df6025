"""Tests of differences between sets: Welch's t test or a bootstrap of the accuracies of their networks.

Each value is the accuracy of one fresh network. The tests therefore describe networks trained on these sets, not other
sets that the same method would distil. Samples count as independent, also where networks have the same seeds.
"""

import math
import statistics
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from raydd.data.score_record import Comparison, Score
from raydd.numerics.rng import generator

LEVEL = 0.95  # of every interval
DRAWS = 10_000
CHUNK = 2**22  # values drawn at a time


@dataclass(frozen=True)
class Difference:
    """The difference between two samples of accuracies; see `raydd.data.score_record.Comparison`."""

    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    freedom: float | None = None


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Test whether two means differ by Welch's t test, which does not assume equal variances.

    There is no test where a side has a single value, whose variance is unknown, or where neither side varies.

    Reference:
        Welch, Biometrika 34 (1947), 28-35, as `scipy.stats.ttest_ind` computes it.

    >>> found = welch([0.5, 0.75], [0.25, 0.5])
    >>> round(found.difference, 6), round(found.freedom, 6), round(found.p, 6)
    (0.25, 2.0, 0.292893)
    """
    difference = _difference(first, second)
    if not _testable(first, second):
        return Difference(difference)
    from scipy.stats import ttest_ind

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one side may be constant
        test = ttest_ind(first, second, equal_var=False)
    low, high = test.confidence_interval(LEVEL)
    return Difference(difference, float(low), float(high), float(test.pvalue), float(test.df))


def bootstrap(first: Sequence[float], second: Sequence[float], seed: int = 0, draws: int = DRAWS) -> Difference:
    """Return the percentile interval of the difference of means, each side resampled with replacement.

    p = min(1, 2 (1 + min(#{d* <= 0}, #{d* >= 0})) / (1 + draws)), the level at which the interval just reaches 0, so p
    is at least 2 / (1 + draws). There is no test where `welch` has none. With few values a side the interval is too
    narrow, by sqrt((n - 1) / n) and because it does not use the t distribution: prefer `welch` below ten values.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 15, as `scipy.stats.bootstrap`
        draws it.

    >>> bootstrap([0.5, 0.75], [0.25, 0.5]).difference
    0.25
    """
    difference = _difference(first, second)
    if not _testable(first, second):
        return Difference(difference)
    from scipy import stats

    result = stats.bootstrap(
        (first, second),
        lambda a, b, axis: np.mean(a, axis) - np.mean(b, axis),
        n_resamples=draws,
        batch=max(1, CHUNK // max(len(first), len(second))),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        random_state=np.random.default_rng(int(torch.randint(2**62, (), generator=generator(seed, "bootstrap")))),
    )
    # Sums of the same values in another order are not equal to the last bit.
    below, above = ((sign * result.bootstrap_distribution <= 1e-12).sum() for sign in (1, -1))
    p = min(1.0, 2 * (1 + int(min(below, above))) / (1 + draws))
    low, high = result.confidence_interval
    return Difference(difference, float(low), float(high), p)


METHODS: dict[str, Callable[[Sequence[float], Sequence[float]], Difference]] = {"welch": welch, "bootstrap": bootstrap}


def holm(ps: Iterable[float | None]) -> list[float | None]:
    """Adjust the p values of several tests, so that all of them together err at the level of one.

    The i-th smallest of m becomes max_{j <= i} min(1, (m - j + 1) p_j). None means no test: it stays and does not
    count.

    Reference:
        Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    given = list(ps)
    known = sorted((p, index) for index, p in enumerate(given) if p is not None)
    adjusted: list[float | None] = [None] * len(given)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = highest
    return adjusted


def compare_scores(
    scores: Sequence[Score], method: str = "welch", requested: Collection[str] | None = None
) -> list[Comparison]:
    """Test differences between rows of a table of scores, network by network.

    The pairs are: all pairs of the requested sets, each requested set with the best baseline of its size, and of every
    size the best requested set with the other baselines. A baseline is a selection of real images or mosaics of them;
    its size is its number of stored images per class. The whole data is an upper bound and is not compared.

    The best rows have the highest mean (of equal ones, the first). The best baseline is therefore the luckiest of
    several: that a set beats it is reported too rarely, and that it beats a set too often. The p values of the best
    set are slightly too small where several sets are close.

    p values are adjusted by `holm` over the tests of the same data set, network and protocol. ``requested`` names the
    sets that are compared in pairs; None takes those of kind distilled.
    """
    if method not in METHODS:
        raise ValueError(f"unknown test {method!r}; use one of {', '.join(METHODS)}")
    families: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        families.setdefault((score.dataset, score.network, score.protocol), []).append(score)
    comparisons = []
    for family in families.values():
        pairs = _pairs(family, requested)
        tests = [METHODS[method](first.values, second.values) for first, second, _ in pairs]
        adjusted = holm(test.p for test in tests)
        for (first, second, best), test, p_adjusted in zip(pairs, tests, adjusted, strict=True):
            comparisons.append(
                Comparison(
                    network=first.network,
                    first=first.name,
                    second=second.name,
                    **vars(test),
                    method=method,
                    counts=(len(first.values), len(second.values)),
                    best_baseline=best,
                    p_adjusted=p_adjusted,
                )
            )
    return comparisons


def _pairs(family: Sequence[Score], requested: Collection[str] | None) -> list[tuple[Score, Score, bool]]:
    """Return the pairs on one network, and whether the second is the best baseline of the first's size."""
    sets, baselines = [], []
    for score in family:
        if score.kind == "distilled" if requested is None else score.name in requested:
            sets.append(score)
        elif score.kind not in ("distilled", "whole"):
            baselines.append(score)
    rivals, best = _best_by_size(baselines), _best_by_size(sets)
    pairs = [(first, second, False) for first, second in combinations(sets, 2)]
    pairs += [(score, rivals[score.ipc], True) for score in sets if score.ipc in rivals]
    others = [score for score in baselines if score is not rivals[score.ipc]]
    return pairs + [(best[other.ipc], other, False) for other in others if other.ipc in best]


def _best_by_size(scores: Sequence[Score]) -> dict[float | None, Score]:
    """Return the score with the highest mean of every size; of equal ones, the first."""
    best: dict[float | None, Score] = {}
    for score in scores:
        if score.ipc not in best or score.mean > best[score.ipc].mean:
            best[score.ipc] = score
    return best


def _difference(first: Sequence[float], second: Sequence[float]) -> float:
    for values in (first, second):
        if not values:
            raise ValueError("a side of a comparison has no accuracies; evaluate it with --seeds 2 or more")
        for value in values:
            if not math.isfinite(value):
                raise ValueError(f"cannot compare the accuracy {value!r}; leave out networks that diverged")
    return statistics.fmean(first) - statistics.fmean(second)


def _testable(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether both variances are known and one is not zero."""
    return min(len(first), len(second)) > 1 and any(statistics.variance(values) > 0 for values in (first, second))
