"""Tables of scores beside each other: differences and their tests, robust scores, and sets by networks."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.table import Table

from raydd.data.score_record import Comparison, RobustScore, Score
from raydd.figures.cells import Cell, Row, chance, interval, points, rows_table, spread
from raydd.io.terminal_table import text_table

ROBUST = {"hlr": "less is better", "ior": "more is better", "lrs": "more is better", "ars": "more is better"}


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
    networks = list(dict.fromkeys(score.network for score in scores))
    rows: list[Row] = []
    for own in by_set(scores):
        cells = {each: spread(own[each].mean, own[each].spread) if each in own else "-" for each in networks}
        first = next(iter(own.values()))
        rows.append({"set": first.name, **cells, "selection": first.selection})
    counts = sorted({score.networks for score in scores})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    many = "one network" if counts == [1] else f"mean ± std, {many} networks"
    protocols = ", ".join(dict.fromkeys(score.protocol for score in scores))
    title = f"{what}: {scores[0].dataset}, protocol {protocols}, test accuracy in %, {many} a cell"
    return rows_table(title, rows)


def robust_rows(scores: Sequence[RobustScore]) -> list[Row]:
    """Return robust scores, a row a set, network and score."""
    return [
        {
            "set": one.of,
            "network": one.network,
            "score": Cell(one.score, note=ROBUST.get(one.score, "")),
            "mean ± std in %": Cell(f"{spread(one.mean, one.std)} ({len(one.values) or 'of means'})", one.mean),
            "weight": Cell(f"{one.weight:g}", one.weight),
            "how": one.how,
        }
        for one in scores
    ]
