"""Tables of scores beside each other: differences and their tests, robust scores, and sets by networks."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from raydd.data.score_record import Comparison, Missing, RobustScore, Score
from raydd.figures.cells import Cell, Row, accuracy, chance, interval, number_cell, points, rows_table, spread
from raydd.io.terminal_table import text_table

SELECTIONS = {
    "honest": "chosen on validation images held out of the training images, or the last step: the test images chose "
    "nothing",
    "paper": "chosen on the test images, the best of several, as papers report: higher than what new images would give",
    "unknown": "its file does not say how it was chosen; other projects' best files were chosen on test, as a rule",
}
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


def score_cell(score: Score) -> Cell:
    """Return the cell of a score."""
    return accuracy(score.mean, score.std, score.networks, f"{networks_text(score)}, {score.selection}")


def networks_text(score: Score) -> str:
    """Return how many networks were trained, and how."""
    return f"{score.networks} network{'' if score.networks == 1 else 's'}, protocol {score.protocol}"


def lacking(cell: Cell, missing: Sequence[Missing]) -> Cell:
    """Return a cell that says how many trainings it lacks, and why."""
    if not missing:
        return cell
    reasons: dict[str, list[str]] = {}
    for one in missing:
        reasons.setdefault(one.reason, []).append(str(one.seed))
    why = "; ".join(f"{reason} (seed {', '.join(seeds)})" for reason, seeds in reasons.items())
    return cell._replace(
        text=f"{cell.text}, {len(missing)} missing", note=f"{cell.note}; missing: {why}".removeprefix("; ")
    )


def matrix_rows(scores: Sequence[Score], missing: Sequence[Missing] = ()) -> list[tuple[Score, Row, Row]]:
    """Return of each set its first score, its cells by network, and its images a class and selection.

    A second score of a set on a network begins another row. Cells say which trainings they lack.
    """
    groups, counts = dict[tuple[object, ...], dict[str, Score]](), Counter[tuple[str, ...]]()
    for score in scores:
        key = score.name, score.dataset, score.protocol, score.selection
        groups.setdefault((key, counts[*key, score.network]), {})[score.network] = score
        counts[*key, score.network] += 1
    networks = dict.fromkeys([one.network for one in scores] + [one.network for one in missing])
    rows = list[tuple[Score, Row, Row]]()
    lost: dict[tuple[str, str], list[Missing]] = {}
    for gone in missing:
        lost.setdefault((gone.name, gone.network), []).append(gone)
    for own in groups.values():
        first = next(iter(own.values()))
        cells = {each: score_cell(own[each]) if each in own else number_cell("-", None) for each in networks}
        cells = {each: lacking(cell, lost.get((first.name, each), ())) for each, cell in cells.items()}
        size = number_cell("all" if first.ipc is None else f"{first.ipc:g}", first.ipc)
        selection = Cell(first.selection, note=SELECTIONS.get(first.selection, ""))
        rows.append((first, cells, {"images a class": size, "selection": selection}))
    return rows


def matrix_table(scores: Sequence[Score], what: str = "scores") -> Table:
    """Return sets of one data set by networks: mean ± standard deviation over networks, a dash where there is none."""
    rows = [{"set": one.name, **cells, "selection": one.selection} for one, cells, _ in matrix_rows(scores)]
    protocols = ", ".join(dict.fromkeys(score.protocol for score in scores))
    over = "mean ± std" if any(score.networks > 1 for score in scores) else "one network a cell"
    title = f"{what}: {scores[0].dataset}, protocol {protocols}, test accuracy in %, {over} (number of networks)"
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
