"""Tables of scores beside each other: differences and their tests, robust scores, and sets by networks."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from raydd.data.score_record import Comparison, RobustScore, Score
from raydd.io.terminal_table import text_table


def percent(value: float | None) -> str:
    """Return a fraction in per cent, to one digit.

    >>> percent(0.7129), percent(None)
    ('71.3', '-')
    """
    return "-" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """Return a difference of fractions in points of per cent, with its sign.

    >>> points(0.05), points(None)
    ('+5.0', '-')
    """
    return "-" if value is None else f"{100 * value:+.1f}"


def interval(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    """Return an interval as text, a dash where there is none."""
    return "-" if low is None or high is None else f"{text(low)} to {text(high)}"


def spread(mean: float | None, std: float | None) -> str:
    """Return a mean and its standard deviation in per cent; the mean alone where there is none.

    >>> spread(0.7129, 0.004), spread(0.7129, None), spread(None, None)
    ('71.3 ± 0.4', '71.3', '-')
    """
    return percent(mean) if mean is None or std is None else f"{percent(mean)} ± {percent(std)}"


def decimal(value: float | None) -> str:
    """Return a coefficient to two digits, a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def chance(p: float | None) -> str:
    """Return a p value as text, a small one as a bound.

    >>> chance(0.034), chance(0.00004), chance(None)
    ('0.034', '< 0.001', '-')
    """
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return differences of accuracies with intervals and p values, a row a test, below a line for its first set."""
    columns = ("first less second", "points", "95 % interval", "p (Holm)")
    counts = {test.counts for test in comparisons}
    alike = len({count for pair in counts for count in pair}) == 1
    groups: dict[str, dict[str, list[tuple[str, ...]]]] = {}
    for test in comparisons:
        mark = " (best)" if test.best_baseline else ""
        numbers = "" if alike else f", {test.counts[0]} and {test.counts[1]} networks"
        cells = points(test.difference), interval(test.low, test.high, points), chance(test.p_adjusted)
        of_network = groups.setdefault(test.network, {})
        of_network.setdefault(test.first, []).append((f"  {test.second}{mark}{numbers}", *cells))
    rows: list[tuple[str, ...]] = []
    for network, firsts in groups.items():
        rows.append((f"{network}:", "", "", ""))
        for first, entries in firsts.items():
            rows += [(f"{first} less", "", "", ""), *entries]
    methods = ", ".join(dict.fromkeys(test.method for test in comparisons)) or "none to make"
    title = f"differences of test accuracy in points of %; test: {methods}"
    title += f", {counts.pop()[0]} networks a row" if alike else ""
    title += "; (best): the best baseline" if any(test.best_baseline for test in comparisons) else ""
    return text_table(title, columns, rows)


def robust_table(scores: Sequence[RobustScore]) -> Table:
    """Return robust scores, a row a set, network and score."""
    columns = ("set", "network", "score", "mean", "std", "how")
    rows = [(test.of, test.network, test.score, percent(test.mean), percent(test.std), test.how) for test in scores]
    return text_table("robust scores in %; of hlr less is better, of ior, lrs and ars more", columns, rows)


def by_set(scores: Iterable[Score]) -> list[dict[str, Score]]:
    """Return the scores of each set by network; a second score on a network begins another entry."""
    entries: dict[tuple[object, ...], dict[str, Score]] = {}
    counts = Counter[tuple[str, ...]]()
    for score in scores:
        key = score.name, score.dataset, score.protocol, score.selection
        entries.setdefault((key, counts[*key, score.network]), {})[score.network] = score
        counts[*key, score.network] += 1
    return list(entries.values())


def matrix_table(scores: Sequence[Score], what: str = "scores") -> Table:
    """Return sets of one data set by networks: mean ± standard deviation over networks, a dash where there is none."""
    networks, rows = list(dict.fromkeys(score.network for score in scores)), []
    for own in by_set(scores):
        cells = [spread(own[each].mean, own[each].spread) if each in own else "-" for each in networks]
        first = next(iter(own.values()))
        rows.append((first.name, *cells, first.selection))
    counts = sorted({score.networks for score in scores})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    many = "one network" if counts == [1] else f"mean ± std, {many} networks"
    protocols = ", ".join(dict.fromkeys(score.protocol for score in scores))
    title = f"{what}: {scores[0].dataset}, protocol {protocols}, test accuracy in %, {many} a cell"
    return text_table(title, ("set", *networks, "selection"), rows)
