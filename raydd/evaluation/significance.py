"""Whether two sets really differ: Welch's t test or a bootstrap of the accuracies of their networks.

A value is one fresh network's accuracy. So the tests speak of the networks that a set trains, and not of other sets
that the same method would distil. Samples count as independent, also where their networks have the same seeds.

Shapes: none; accuracies are fractions.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from raydd.numerics.rng import generator

Record = Mapping[str, Any]
LEVEL = 0.95  # of every interval
DRAWS = 10_000
CHUNK = 2**22  # values drawn at a time


@dataclass(frozen=True)
class Comparison:
    """How far two samples of accuracies are apart.

    Attributes:
        difference: The mean of the first less the mean of the second.
        low: Lower end of the 95 % interval of the difference; None where there is no test.
        high: Its upper end.
        p: Two-sided; None where there is no test.
        freedom: Degrees of freedom of the t distribution; None without test, and of a bootstrap.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    freedom: float | None = None


def welch(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Welch's t test of two means, variances not taken as equal.

    v_i = s_i^2 / n_i;  t = (m_1 - m_2) / sqrt(v_1 + v_2);  nu = (v_1 + v_2)^2 / sum_i v_i^2 / (n_i - 1)

    There is no test, and the difference alone is given, where a side has a single value, whose variance is not known,
    and where neither side varies.

    Args:
        first: Accuracies.
        second: Accuracies.

    Raises:
        ValueError: A side without values, or a value that is not finite.

    Reference:
        Welch, Biometrika 34 (1947), 28-35; the degrees of freedom of Satterthwaite, Biometrics Bulletin 2 (1946).

    >>> found = welch([0.5, 0.75], [0.25, 0.5])
    >>> round(found.difference, 6), round(found.freedom, 6), round(found.p, 6)
    (0.25, 2.0, 0.292893)
    """
    difference = _difference(first, second)
    if not _testable(first, second):
        return Comparison(difference)
    from scipy.special import stdtr, stdtrit

    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    # Shares of the error, so that no square of a tiny variance is lost.
    shares = [part / sum(parts) for part in parts]
    freedom = 1 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (first, second), strict=True))
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    return Comparison(difference, difference - half, difference + half, p, freedom)


def bootstrap(first: Sequence[float], second: Sequence[float], seed: int = 0, draws: int = DRAWS) -> Comparison:
    """The percentile interval of the difference of means, each side drawn again from itself with replacement.

    p = min(1, 2 (1 + min(#{d* <= 0}, #{d* >= 0})) / (1 + draws)), the level at which the interval just reaches 0; so it
    is never below 2 / (1 + draws). There is no test where `welch` has none. With few values a side the interval is too
    narrow, by sqrt((n - 1) / n) and for want of the t distribution: prefer `welch` below some ten values.

    Args:
        first: Accuracies.
        second: Accuracies.
        seed: Of the draws; the same seed and values give the same result.
        draws: How often both sides are drawn again.

    Raises:
        ValueError: A side without values, or a value that is not finite.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 15.

    >>> bootstrap([0.5, 0.75], [0.25, 0.5]).difference
    0.25
    """
    difference = _difference(first, second)
    if not _testable(first, second):
        return Comparison(difference)
    means = [_means(values, draws, generator(seed, "bootstrap", side)) for side, values in enumerate((first, second))]
    found = means[0] - means[1]
    # Sums of the same values in another order are not equal to the last bit.
    found[found.abs() < 1e-12] = 0.0
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(found, ends).tolist()
    rarer = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return Comparison(difference, low, high, min(1.0, 2 * (1 + rarer) / (1 + draws)))


METHODS: dict[str, Callable[[Sequence[float], Sequence[float]], Comparison]] = {"welch": welch, "bootstrap": bootstrap}


def holm(ps: Iterable[float | None]) -> list[float | None]:
    """P values of a family of tests, raised so that all of them together err at the level of one.

    The i-th smallest of m becomes max_{j <= i} min(1, (m - j + 1) p_j). None, no test, stays None and does not count.

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
    records: Sequence[Record], method: str = "welch", asked: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Tests between rows of a table of scores, network by network.

    Compared are all pairs of the asked sets, each of them with the best baseline of its size, and of every size the
    best asked set with the other baselines. A baseline is a selection of real images, mosaics of them included; its
    size is the number of images that it stores a class.

    The best ones have the highest mean of the accuracies that the test sees (of equal ones the first). So the best
    baseline is the luckiest of several: that a set beats it is said too seldom, and that it beats a set too often.
    The p values of the best set are a little too small where several sets lie close.
    The whole data is compared with nothing: it is what the sets are meant to reach, and no rival.

    Args:
        records: As `raydd.evaluation.scores.summarise` gives them.
        method: A name of `METHODS`.
        asked: Names of the sets that are compared in pairs; None takes those of kind distilled.

    Returns:
        A dict a test: ``network``, ``first``, ``second``, ``difference``, ``low``, ``high``, ``p``, ``p_adjusted`` (by
        `holm` over the tests of the same data set, network and protocol), ``method``, ``freedom``, ``counts`` (values
        of the first and the second), ``best_baseline`` (whether the second is the best baseline of the first's size).

    Raises:
        ValueError: An unknown method, or what the method refuses.
    """
    if method not in METHODS:
        raise ValueError(f"unknown test {method!r}; use one of {', '.join(METHODS)}")
    families: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        families.setdefault(tuple(record.get(key) for key in ("dataset", "network", "protocol")), []).append(record)
    found = []
    for family in families.values():
        rows = [_row(first, second, method) | {"best_baseline": best} for first, second, best in _pairs(family, asked)]
        adjusted = holm(row["p"] for row in rows)
        found += [row | {"p_adjusted": p} for row, p in zip(rows, adjusted, strict=True)]
    return found


def _pairs(family: Sequence[Record], asked: Collection[str] | None) -> list[tuple[Record, Record, bool]]:
    """What is compared on one network, and whether the second is the best baseline of the first's size."""
    sets, baselines = [], []
    for record in family:
        chosen = record["kind"] == "distilled" if asked is None else record["name"] in asked
        if chosen:
            sets.append(record)
        elif record["kind"] not in ("distilled", "whole"):
            baselines.append(record)
    rivals, best = _best(baselines), _best(sets)
    pairs = [(first, second, False) for first, second in combinations(sets, 2)]
    pairs += [(record, rivals[size], True) for record in sets if (size := record.get("ipc")) in rivals]
    others = [record for record in baselines if record is not rivals[record.get("ipc")]]
    return pairs + [(best[size], other, False) for other in others if (size := other.get("ipc")) in best]


def _best(records: Sequence[Record]) -> dict[Any, Record]:
    """Of every size the record with the highest mean; of equal ones the first."""
    found: dict[Any, Record] = {}
    for record in records:
        size = record.get("ipc")
        if size not in found or float(record["mean"]) > float(found[size]["mean"]):
            found[size] = record
    return found


def _row(first: Record, second: Record, method: str) -> dict[str, Any]:
    found = METHODS[method](first["values"], second["values"])
    return {
        "network": first["network"],
        "first": first["name"],
        "second": second["name"],
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "method": method,
        "freedom": found.freedom,
        "counts": [len(first["values"]), len(second["values"])],
    }


def _difference(first: Sequence[float], second: Sequence[float]) -> float:
    for values in (first, second):
        if not values:
            raise ValueError("a side of a comparison has no accuracies; evaluate it with --seeds 2 or more")
        for value in values:
            if not math.isfinite(value):
                raise ValueError(f"cannot compare the accuracy {value!r}; leave out networks that diverged")
    return statistics.fmean(first) - statistics.fmean(second)


def _testable(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether variances are known, and one is not zero; `statistics` has that of equal values as exactly zero."""
    return min(len(first), len(second)) > 1 and any(statistics.variance(values) > 0 for values in (first, second))


def _means(values: Sequence[float], draws: int, random: torch.Generator) -> torch.Tensor:
    """Shape (draws,): means of as many values, drawn with replacement."""
    given = torch.tensor(values, dtype=torch.float64)
    rows = max(1, CHUNK // len(given))
    return torch.cat(
        [
            given[torch.randint(len(given), (min(rows, draws - start), len(given)), generator=random)].mean(dim=1)
            for start in range(0, draws, rows)
        ]
    )
