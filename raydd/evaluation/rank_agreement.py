"""Agreement between a ranking of architectures by a small proxy set and the ranking by real data.

Two mappings from architecture to score are compared; higher is better. A proxy's score is an accuracy, or a tuple that
is compared from the left: with (rung, accuracy), architectures that were stopped early rank below all others.

Reference: Du et al., arXiv 2211.11004 (FTD), section 4.4 and Table 5, and Cao et al. (DPD), section 4.5 and Table 6:
720 ConvNets are trained on the proxy set and tested on real test images, and Spearman's correlation with the ranking by
training on real data is printed for the top 5, 10 and 20.

Differs: the papers do not say by which of the two rankings these are the top. DPD selects "the top 20 architectures in
terms of test accuracy" right after the training on the proxy set; we take the best by the proxy, which is the result
of a search, and give the best by real data beside them. (DPD heads its third column top-15, and writes 20 in the
text.) The papers also do not say how ties rank or how often networks were trained; without ties a correlation of five
is a multiple of 0.1, and the papers' 0.87 and 0.86 are not. Here ties share the average rank in correlations, and the
given order decides which of them are among the best.
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
Array = NDArray[np.float64]
TOPS = (5, 10, 20)
EXACT = 7  # architectures up to which all orders (5040) give the p value
DRAWS = 1000


def spearman(first: Sequence[Score], second: Sequence[Score]) -> float | None:
    """Return Spearman's rank correlation in [-1, 1] of two scores of each architecture; ties have the average rank.

    It is None where undefined: fewer than two architectures, or a constant side.

    >>> spearman([0.1, 0.2, 0.3, 0.4], [(0, 0.9), (1, 0.2), (1, 0.4), (1, 0.3)])
    0.8
    """
    from scipy.stats import spearmanr

    ranks = _ranks(first, second)
    return None if ranks is None else round(float(spearmanr(*ranks).statistic), 12)


def kendall(first: Sequence[Score], second: Sequence[Score]) -> float | None:
    """Return Kendall's tau-b; arguments, result and errors are those of `spearman`.

    >>> kendall([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    0.8
    """
    from scipy.stats import kendalltau

    ranks = _ranks(first, second)
    return None if ranks is None else round(float(kendalltau(*ranks, variant="b").statistic), 12)


def spearman_p(first: Sequence[Score], second: Sequence[Score]) -> float | None:
    """Return the two-sided p value of `spearman` under no association.

    Up to `EXACT` architectures it is the share of all orders with a correlation at least as far from 0, so at least
    2 / n!. With more it is that of t = r sqrt((n - 2) / (1 - r^2)) with n - 2 degrees of freedom, from scipy, which is
    accurate from about ten on. None where the correlation is undefined, or below three architectures.
    """
    if (ranks := _ranks(first, second)) is None or len(first) < 3:
        return None
    if len(first) > EXACT:
        from scipy.stats import spearmanr

        return float(spearmanr(*ranks).pvalue)
    left, right = (one - one.mean() for one in ranks)
    sizes = np.abs(left[np.array(list(permutations(range(len(left)))))] @ right)
    return float((sizes >= abs(left @ right) - 1e-9).mean())


def spearman_interval(
    first: Sequence[Score], second: Sequence[Score], seed: int = 0, draws: int = DRAWS
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of `spearman`, with architectures resampled with replacement.

    Resamples without a correlation do not count. None where the correlation is undefined, or below three architectures.

    >>> spearman_interval([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    (1.0, 1.0)
    """
    if (ranks := _ranks(first, second)) is None or len(first) < 3:
        return None
    from scipy.stats import rankdata

    random = generator(seed, "architectures")
    chosen = torch.stack([torch.randint(len(first), (len(first),), generator=random) for _ in range(draws)]).numpy()
    left, right = (rankdata(one[chosen], axis=1) for one in ranks)
    defined = (np.ptp(left, axis=1) > 0) & (np.ptp(right, axis=1) > 0)
    if not defined.any():
        return None
    left, right = (one[defined] - one[defined].mean(axis=1, keepdims=True) for one in (left, right))
    values = (left * right).sum(axis=1) / np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    low, high = np.quantile(values.round(12), [0.025, 0.975])
    return float(low), float(high)


def best(ranking: Ranking, k: int) -> list[str]:
    """Return the names of the k best, the best first; of equal ones, those that come first in the mapping.

    >>> best({"a": 0.2, "b": 0.9, "c": 0.9}, 2)
    ['b', 'c']
    """
    scores = dict(zip(ranking, _tuples(list(ranking.values())), strict=True))
    return sorted(scores, key=scores.__getitem__, reverse=True)[:k]


def top_overlap(proxy: Ranking, truth: Mapping[str, float], k: int) -> float | None:
    """Return the share of the proxy's best k among the truth's best k; None with fewer than k architectures.

    Both sides have the same architectures. Of ties at the k-th place, those that come first in ``proxy`` count.
    """
    truth = _aligned(proxy, truth)
    return None if len(proxy) < k else len(set(best(proxy, k)) & set(best(truth, k))) / k


def top_spearman(
    proxy: Ranking, truth: Mapping[str, float], k: int, best_by: Literal["proxy", "truth"] = "proxy"
) -> float | None:
    """Return Spearman's correlation of both rankings among the best k architectures by ``best_by``.

    It is in [-1, 1]; None with fewer than k architectures, or where it is undefined. Both sides have the same ones.
    """
    truth = _aligned(proxy, truth)
    names = best(proxy if best_by == "proxy" else truth, k) if len(proxy) >= k else []
    return spearman([proxy[name] for name in names], [truth[name] for name in names])


def regret(proxy: Ranking, truth: Mapping[str, float], k: int) -> float | None:
    """Return the best real accuracy less the best among the proxy's best k, in [0, 1]; None with fewer than k."""
    truth = _aligned(proxy, truth)
    return None if len(proxy) < k else max(truth.values()) - max(truth[name] for name in best(proxy, k))


def agreement(proxy: Ranking, truth: Mapping[str, float], tops: Sequence[int] = TOPS, seed: int = 0) -> dict[str, Any]:
    """Return all measures of agreement, for a JSON document; None wherever one is undefined.

    Architectures that only one side has are left out and counted. A top's ``spearman`` is among the proxy's best k,
    its ``found`` is the truly best of these.
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
    names = best(proxy, k) if k <= len(proxy) else []
    top = best({name: truth[name] for name in names}, 1)[0] if names else None
    return {
        "k": k,
        "overlap": top_overlap(proxy, truth, k),
        "spearman": top_spearman(proxy, truth, k),
        "spearman_p": spearman_p([proxy[name] for name in names], [truth[name] for name in names]),
        "spearman_of_true_best": top_spearman(proxy, truth, k, "truth"),
        "regret": regret(proxy, truth, k),
        "names": names or None,
        "found": top,
        "found_accuracy": None if top is None else truth[top],
    }


def _aligned(proxy: Ranking, truth: Mapping[str, float]) -> dict[str, float]:
    """Return the truth in the order of the proxy; refuse different architectures."""
    for name in proxy.keys() ^ truth.keys():
        raise ValueError(f"only one ranking has the architecture {name!r}; give both the same ones")
    return {name: truth[name] for name in proxy}


def _tuples(scores: Sequence[Score]) -> list[tuple[float, ...]]:
    """Return scores that can be compared with each other."""
    tuples = [score if isinstance(score, tuple) else (score,) for score in scores]
    for score in tuples:
        if any(math.isnan(value) for value in score):
            raise ValueError(f"a score is {score}, which has no rank; leave out architectures that diverged")
        if len(score) != len(tuples[0]):
            raise ValueError(f"scores {tuples[0]} and {score} do not compare; give tuples of one length")
    return tuples


def _ranks(first: Sequence[Score], second: Sequence[Score]) -> tuple[Array, Array] | None:
    """Return ranks from 1 of both sides, averages where scores are equal; None where a correlation is undefined."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} scores do not pair; give both of the same architectures")
    left, right = _average_ranks(first), _average_ranks(second)
    return (left, right) if len(left) > 1 and np.ptp(left) > 0 and np.ptp(right) > 0 else None


def _average_ranks(scores: Sequence[Score]) -> Array:
    from scipy.stats import rankdata

    tuples = _tuples(scores)
    order = {score: index for index, score in enumerate(sorted(set(tuples)))}
    ranks: Array = rankdata([order[score] for score in tuples])
    return ranks
