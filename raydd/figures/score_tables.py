"""Tables of scores beside each other: differences and their tests, robust scores, and sets by networks.

Shapes: none; given are fractions, shown is per cent.
"""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from raydd.io.terminal_table import text_table


def percent(value: float | None, signed: bool = False) -> str:
    """A fraction in per cent, to one digit.

    >>> percent(0.7129), percent(0.05, signed=True), percent(None)
    ('71.3', '+5.0', '-')
    """
    return "-" if value is None else f"{100 * value:{'+' if signed else ''}.1f}"


def spread(mean: float | None, std: float | None) -> str:
    """A mean and its standard deviation in per cent; the mean alone where there is none.

    >>> spread(0.7129, 0.004), spread(0.7129, None), spread(None, None)
    ('71.3 ± 0.4', '71.3', '-')
    """
    return percent(mean) if mean is None or std is None else f"{percent(mean)} ± {percent(std)}"


def chance(p: float | None) -> str:
    """A p value as it is read; small ones as a bound.

    >>> chance(0.034), chance(0.00004), chance(None)
    ('0.034', '< 0.001', '-')
    """
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_table(comparisons: Sequence[dict[str, Any]]) -> Table:
    """Differences of accuracies with their intervals and p values: a row a test, below a line for its first set.

    Args:
        comparisons: Tests of `compare_scores`; a difference without test has a dash for its interval and its p value.
    """
    columns = ("first less second", "points", "95 % interval", "p (Holm)")
    counts = {tuple(test["counts"]) for test in comparisons}
    alike = len({count for pair in counts for count in pair}) == 1
    groups: dict[str, dict[str, list[tuple[str, ...]]]] = {}
    for test in comparisons:
        mark = " (best)" if test["best_baseline"] else ""
        numbers = "" if alike else f", {test['counts'][0]} and {test['counts'][1]} networks"
        ends = [percent(test[key], signed=True) for key in ("low", "high")]
        interval = "-" if test["low"] is None else f"{ends[0]} to {ends[1]}"
        cells = percent(test["difference"], signed=True), interval, chance(test["p_adjusted"])
        of_network = groups.setdefault(test["network"], {})
        of_network.setdefault(test["first"], []).append((f"  {test['second']}{mark}{numbers}", *cells))
    rows: list[tuple[str, ...]] = []
    for network, firsts in groups.items():
        rows.append((f"{network}:", "", "", ""))
        for first, tests in firsts.items():
            rows += [(f"{first} less", "", "", ""), *tests]
    methods = ", ".join(dict.fromkeys(test["method"] for test in comparisons)) or "none to make"
    title = f"differences of test accuracy in points of %; test: {methods}"
    title += f", {counts.pop()[0]} networks a row" if alike else ""
    title += "; (best): the best baseline" if any(test["best_baseline"] for test in comparisons) else ""
    return text_table(title, columns, rows)


def robust_table(scores: Sequence[dict[str, Any]]) -> Table:
    """Robust scores, one row a set, network and score.

    Args:
        scores: Dicts with ``name``, ``network``, ``score`` (a name of `raydd.evaluation.robust.SCORES`), and ``mean``,
            ``std`` and ``how`` of its `Spread`.
    """
    columns = ("set", "network", "score", "mean", "std", "how")
    rows = [
        (score["name"], score["network"], score["score"], percent(score["mean"]), percent(score["std"]), score["how"])
        for score in scores
    ]
    return text_table("robust scores in %; of hlr less is better, of ior, lrs and ars more", columns, rows)


def score_table(scores: Sequence[dict[str, Any]], what: str = "scores") -> Table:
    """Scores, one row a record.

    Args:
        scores: Records of `raydd.evaluation.scores.summarise`, of one data set and protocol.
        what: What the rows are, which the title begins with.
    """
    columns = ("set", "network", "mean", "std", "selection")
    rows = [
        (score["name"], score["network"], percent(score["mean"]), percent(_std(score)), score["selection"])
        for score in scores
    ]
    return text_table(f"{_title(scores, what)}, {_networks(scores)} a row", columns, rows)


def matrix_table(scores: Sequence[dict[str, Any]]) -> Table:
    """Sets by networks: a cell is mean ± standard deviation over fresh networks.

    Args:
        scores: Records of `raydd.evaluation.scores.summarise`, of one data set, row by row; what was not scored has a
            dash. A second record of a name, selection and network begins another row, also where names are the same.
    """
    networks = list(dict.fromkeys(score["network"] for score in scores))
    lines: list[tuple[str, str, dict[str, str]]] = []
    for score in scores:
        key = (score["name"], score["selection"])
        cells = next((cells_of for *whose, cells_of in reversed(lines) if (*whose,) == key), None)
        if cells is None or score["network"] in cells:
            cells = {}
            lines.append((*key, cells))
        cells[score["network"]] = spread(score["mean"], _std(score))
    rows = [(name, *(cells.get(each, "-") for each in networks), choice) for name, choice, cells in lines]
    title = f"{_title(scores, 'sets by networks')}, mean ± std, {_networks(scores)} a cell"
    return text_table(title, ("set", *networks, "selection"), rows)


def _networks(scores: Sequence[dict[str, Any]]) -> str:
    """How many networks a mean is over."""
    counts = sorted({score["networks"] for score in scores})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return "one network" if counts == [1] else f"{many} networks"


def _std(score: dict[str, Any]) -> float | None:
    """A record's standard deviation; a single network has none."""
    std: float | None = score["std"]
    return std if score["networks"] > 1 else None


def _title(scores: Sequence[dict[str, Any]], what: str) -> str:
    protocols = ", ".join(dict.fromkeys(score["protocol"] for score in scores))
    return f"{what}: {scores[0]['dataset']}, protocol {protocols}, test accuracy in %"
