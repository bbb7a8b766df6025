"""How well a ranking of architectures by a small proxy set agrees with the ranking by real data.

Two mappings from architecture to score are compared. A proxy's score is an accuracy, or a tuple that is compared from
the left: with (rung, accuracy) what was stopped early ranks below all that went on. Higher is better.

Shapes: none; accuracies are fractions.

Reference: Du et al., arXiv 2211.11004 (FTD), section 4.4 and Table 5, and Cao et al. (DPD), section 4.5 and Table 6:
720 ConvNets are trained on the proxy set and tested on real test images, and Spearman's correlation with the ranking by
training on real data is printed for the top 5, 10 and 20.

Differs: the papers do not say by which of the two rankings these are the top. DPD selects "the top 20 architectures in
terms of test accuracy" right after the training on the proxy set; we read: the best by the proxy, which is what a
search hands over, and give the best by real data beside them. (DPD heads its third column top-15, and writes 20 in the
text.) How ties rank and how often networks were trained is not said either; without ties a correlation of five is a
multiple of 0.1, and the papers' 0.87 and 0.86 are none. Here ties share the average rank in correlations, and the order
given decides which of them are among the best.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raydd.numerics.rng import generator

Score = float | tuple[float, ...]
Ranking = Mapping[str, Score]
TOPS = (5, 10, 20)
EXACT = 7  # architectures; their 5040 orders are gone through for a p value
DRAWS = 1000


def spearman(first: Sequence[Score], second: Sequence[Score]) -> float | None:
    """Spearman's rank correlation: Pearson's of the ranks, where ties have the average rank.

    Args:
        first: Scores.
        second: Scores of the same architectures.

    Returns:
        In [-1, 1]; None where it is not defined: fewer than two architectures, or a side that is constant.

    Raises:
        ValueError: Not as many scores on both sides, tuples of several lengths, or NaN.

    >>> spearman([0.1, 0.2, 0.3, 0.4], [(0, 0.9), (1, 0.2), (1, 0.4), (1, 0.3)])
    0.8
    """
    return _pearson(*_ranks(first, second))


def kendall(first: Sequence[Score], second: Sequence[Score]) -> float | None:
    """Kendall's tau-b: concordant less discordant pairs, over sqrt((n_0 - ties of first) (n_0 - ties of second)).

    Args, result and errors are those of `spearman`.

    >>> kendall([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    0.8
    """
    places = _ranks(first, second)
    if _undefined(*places):
        return None
    from scipy.stats import kendalltau

    return round(float(kendalltau(*places, variant="b").statistic), 12)


def spearman_p(first: Sequence[Score], second: Sequence[Score]) -> float | None:
    """The two-sided p value of `spearman` under no association.

    Up to `EXACT` architectures it is the share of all orders with a correlation as far from 0, and never below 2 / n!;
    with more it is that of t = r sqrt((n - 2) / (1 - r^2)) with n - 2 degrees of freedom, as scipy gives it, which is
    near from some ten on.

    Returns:
        In [0, 1]; None where the correlation is not defined, and below three architectures.
    """
    places = _ranks(first, second)
    if _undefined(*places) or len(first) < 3:
        return None
    if len(first) > EXACT:
        from scipy.stats import spearmanr

        return float(spearmanr(*places).pvalue)
    left, right = (ranks - ranks.mean() for ranks in places)
    found = np.abs(left[np.array(list(permutations(range(len(left)))))] @ right)
    return float((found >= abs(left @ right) - 1e-9).mean())


def spearman_interval(
    first: Sequence[Score], second: Sequence[Score], seed: int = 0, draws: int = DRAWS
) -> tuple[float, float] | None:
    """The 95 % percentile interval of `spearman`, architectures drawn again with replacement.

    Drawn samples where the correlation is not defined do not count.

    Returns:
        Both ends; None where the correlation is not defined, and below three architectures.

    >>> spearman_interval([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    (1.0, 1.0)
    """
    places = _ranks(first, second)
    if _undefined(*places) or len(first) < 3:
        return None
    sorts = [np.unique(ranks, return_inverse=True)[1] for ranks in places]
    random, found = generator(seed, "architectures"), []
    for _ in range(draws):
        chosen = torch.randint(len(first), (len(first),), generator=random).numpy()
        value = _pearson(*(_shared(sort[chosen]) for sort in sorts))
        if value is not None:
            found.append(value)
    if not found:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def best(ranking: Ranking, k: int) -> list[str]:
    """Names of the k best, the best first; of equal ones those that come first in the mapping.

    >>> best({"a": 0.2, "b": 0.9, "c": 0.9}, 2)
    ['b', 'c']
    """
    scores = dict(zip(ranking, _tuples(list(ranking.values())), strict=True))
    return sorted(scores, key=scores.__getitem__, reverse=True)[:k]


def top_overlap(proxy: Ranking, truth: Mapping[str, float], k: int) -> float | None:
    """Which part of the proxy's best k are among the truth's best k; None with fewer than k architectures.

    Ties at the k-th place: those that come first in ``proxy`` are in, on both sides.

    Raises:
        ValueError: Not the same architectures on both sides.
    """
    proxy, truth = _aligned(proxy, truth)
    if len(proxy) < k:
        return None
    return len(set(best(proxy, k)) & set(best(truth, k))) / k


def top_spearman(
    proxy: Ranking, truth: Mapping[str, float], k: int, best_by: Literal["proxy", "truth"] = "proxy"
) -> float | None:
    """Spearman's correlation of both rankings among the best k architectures.

    Args:
        proxy: Scores by the proxy set.
        truth: Accuracies by real data.
        k: How many.
        best_by: Which ranking they are the best of. The papers do not say; see the top of this file.

    Returns:
        In [-1, 1]; None with fewer than k architectures, or where it is not defined.

    Raises:
        ValueError: Not the same architectures on both sides.
    """
    proxy, truth = _aligned(proxy, truth)
    if len(proxy) < k:
        return None
    names = best(proxy if best_by == "proxy" else truth, k)
    return spearman([proxy[name] for name in names], [truth[name] for name in names])


def regret(proxy: Ranking, truth: Mapping[str, float], k: int) -> float | None:
    """The best real accuracy of all less the best among the proxy's best k, in [0, 1]; None with fewer than k.

    Raises:
        ValueError: Not the same architectures on both sides.
    """
    proxy, truth = _aligned(proxy, truth)
    if len(proxy) < k:
        return None
    return max(truth.values()) - max(truth[name] for name in best(proxy, k))


def agreement(proxy: Ranking, truth: Mapping[str, float], tops: Sequence[int] = TOPS, seed: int = 0) -> dict[str, Any]:
    """All measures of agreement, for a JSON document; None wherever one is not defined.

    Args:
        proxy: Scores by the proxy set.
        truth: Accuracies by real data; architectures that only one side has are left out and counted.
        tops: Sizes of the tops. One that is larger than the sample has None throughout: it is not cut to the sample.
        seed: Of the interval's draws.

    Returns:
        ``architectures`` and ``left_out`` (counts), ``spearman``, ``spearman_p``, ``spearman_low``, ``spearman_high``,
        ``kendall``, ``best`` (the true best's name), ``best_accuracy``, and ``tops``: for each, ``k``, ``overlap``,
        ``spearman`` and ``spearman_p`` (among the proxy's best k), ``spearman_of_true_best``, ``regret``, ``names``
        (the proxy's best k), ``found`` (the one of these that is truly best) and ``found_accuracy``.

    Raises:
        ValueError: Nothing in common, tuples of several lengths, NaN, or a top below 1.
    """
    names = [name for name in proxy if name in truth]
    if not names:
        raise ValueError("the proxy and the real ranking have no architecture in common; rank one space by both")
    for k in tops:
        if k < 1:
            raise ValueError(f"the top {k} has no architectures; give sizes of 1 and more, such as 5,10,20")
    ours, theirs = {name: proxy[name] for name in names}, {name: truth[name] for name in names}
    scores = list(ours.values()), list(theirs.values())
    low, high = spearman_interval(*scores, seed) or (None, None)
    first = best(theirs, 1)[0]
    return {
        "architectures": len(names),
        "left_out": len(proxy.keys() ^ truth.keys()),
        "spearman": spearman(*scores),
        "spearman_p": spearman_p(*scores),
        "spearman_low": low,
        "spearman_high": high,
        "kendall": kendall(*scores),
        "best": first,
        "best_accuracy": theirs[first],
        "tops": [_top(ours, theirs, k) for k in tops],
    }


def _top(proxy: Ranking, truth: Mapping[str, float], k: int) -> dict[str, Any]:
    names = best(proxy, k) if k <= len(proxy) else None
    found = best({name: truth[name] for name in names}, 1)[0] if names else None
    chosen = names or []
    return {
        "k": k,
        "overlap": top_overlap(proxy, truth, k),
        "spearman": top_spearman(proxy, truth, k),
        "spearman_p": spearman_p([proxy[name] for name in chosen], [truth[name] for name in chosen]),
        "spearman_of_true_best": top_spearman(proxy, truth, k, "truth"),
        "regret": regret(proxy, truth, k),
        "names": names,
        "found": found,
        "found_accuracy": None if found is None else truth[found],
    }


def _aligned(proxy: Ranking, truth: Mapping[str, float]) -> tuple[dict[str, Score], dict[str, float]]:
    """Both sides in the order of the proxy."""
    for name in proxy.keys() ^ truth.keys():
        raise ValueError(f"only one ranking has the architecture {name!r}; give both the same ones")
    return dict(proxy), {name: truth[name] for name in proxy}


def _tuples(scores: Sequence[Score]) -> list[tuple[float, ...]]:
    """Scores that compare."""
    tuples = [score if isinstance(score, tuple) else (score,) for score in scores]
    for score in tuples:
        if any(math.isnan(value) for value in score):
            raise ValueError(f"a score is {score}, which has no rank; leave out architectures that diverged")
        if len(score) != len(tuples[0]):
            raise ValueError(f"scores {tuples[0]} and {score} do not compare; give tuples of one length")
    return tuples


def _ranks(first: Sequence[Score], second: Sequence[Score]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks from 1, averages where scores are equal."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} scores do not pair; give both of the same architectures")
    return _average(first), _average(second)


def _average(scores: Sequence[Score]) -> NDArray[np.float64]:
    tuples = _tuples(scores)
    sort = {score: place for place, score in enumerate(sorted(set(tuples)))}
    return _shared(np.array([sort[score] for score in tuples], np.intp))


def _shared(sort: NDArray[np.intp]) -> NDArray[np.float64]:
    """Ranks of whole numbers by counting: equal ones share the average of their places."""
    counts = np.bincount(sort)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[sort]
    return ranks


def _undefined(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    return len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    if _undefined(first, second):
        return None
    left, right = first - first.mean(), second - second.mean()
    # Rounded where floating point would leave 1 by its last bits.
    return round(float(left @ right / math.sqrt(float(left @ left) * float(right @ right))), 12)
