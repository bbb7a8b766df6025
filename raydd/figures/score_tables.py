"""Tables of scores beside each other: differences and their tests, robust scores, and sets by networks."""

from collections.abc import Sequence

from rich.table import Table

from raydd.data.score_record import Comparison, RobustScore, Score
from raydd.io.terminal_table import text_table


def percent(value: float | None, signed: bool = False) -> str:
    """Return a fraction in per cent, to one digit.

    >>> percent(0.7129), percent(0.05, signed=True), percent(None)
    ('71.3', '+5.0', '-')
    """
    return "-" if value is None else f"{100 * value:{'+' if signed else ''}.1f}"


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
        ends = [percent(end, signed=True) for end in (test.low, test.high)]
        interval = "-" if test.low is None else f"{ends[0]} to {ends[1]}"
        cells = percent(test.difference, signed=True), interval, chance(test.p_adjusted)
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


def score_table(scores: Sequence[Score], what: str = "scores") -> Table:
    """Return the scores of one data set, a row a record."""
    columns = ("set", "network", "mean", "std", "selection")
    rows = [
        (score.name, score.network, percent(score.mean), percent(score.spread), score.selection) for score in scores
    ]
    return text_table(f"{_title(scores, what)}, {_networks(scores)} a row", columns, rows)


def matrix_table(scores: Sequence[Score]) -> Table:
    """Return sets of one data set by networks: mean ± standard deviation over networks, a dash where there is none.

    A second record of a name, selection and network begins another row.
    """
    networks = list(dict.fromkeys(score.network for score in scores))
    lines: list[tuple[str, str, dict[str, str]]] = []
    for score in scores:
        key = (score.name, score.selection)
        cells = next((line[2] for line in reversed(lines) if line[:2] == key), None)
        if cells is None or score.network in cells:
            cells = {}
            lines.append((*key, cells))
        cells[score.network] = spread(score.mean, score.spread)
    rows = [(name, *(cells.get(each, "-") for each in networks), choice) for name, choice, cells in lines]
    title = f"{_title(scores, 'sets by networks')}, mean ± std, {_networks(scores)} a cell"
    return text_table(title, ("set", *networks, "selection"), rows)


def _networks(scores: Sequence[Score]) -> str:
    counts = sorted({score.networks for score in scores})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return "one network" if counts == [1] else f"{many} networks"


def _title(scores: Sequence[Score], what: str) -> str:
    protocols = ", ".join(dict.fromkeys(score.protocol for score in scores))
    return f"{what}: {scores[0].dataset}, protocol {protocols}, test accuracy in %"
