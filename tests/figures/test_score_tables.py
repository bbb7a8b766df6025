"""Tables of comparisons, of robust scores and of sets by networks: what their cells say."""

import io

import pytest
from rich.console import Console

from raydd.data.score_record import RobustScore, Score
from raydd.evaluation.significance import compare_scores
from raydd.figures.cells import chance, percent, points, rows_table, spread
from raydd.figures.score_tables import comparison_table, matrix_table, robust_rows
from raydd.io.terminal_table import text_table


def shown(table, width=200):
    """What a person sees of a table."""
    text = Console(file=io.StringIO(), width=width, emoji=False)
    text.print(table)
    return text.file.getvalue()


def cells(table):
    """Columns of a table by name."""
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def score(name, network, values, kind="distilled", **extra):
    mean = sum(values) / len(values)
    found = {"name": name, "kind": kind, "dataset": "digits", "network": network, "protocol": "mtt", "ipc": 10.0}
    found |= {"selection": "honest", "networks": len(values), "mean": mean, "std": 0.0, "values": tuple(values)}
    return Score(**found | extra)


SCORES = [
    score("[red]a", "ConvNet", [0.75, 0.7, 0.8], std=0.05),
    score("[red]a", "MLP", [0.5, 0.5], std=0.0),
    score("b", "ConvNet", [0.25, 0.3, 0.2], std=0.05),
    score("random", "ConvNet", [0.125], kind="random"),
]


def test_numbers_in_words():
    assert (points(-0.0312), percent(1.0)) == ("-3.1", "100.0")
    assert spread(0.5, 0.0) == "50.0 ± 0.0"
    assert (chance(0.001), chance(0.000999), chance(1.0)) == ("0.001", "< 0.001", "1.000")


def test_a_comparison_has_its_difference_interval_and_p():
    table = comparison_table(compare_scores(SCORES[:1] + SCORES[2:3]))
    found = cells(table)
    assert found["first less second"] == ["ConvNet:", "[red]a less", "  b"]
    assert found["points"] == ["", "", "+50.0"]
    # Welch with equal variances: nu = 4, the 97.5 % point is 2.7764, the error 0.05 sqrt(2 / 3): 0.5 -+ 0.1133.
    assert found["95 % interval"] == ["", "", "+38.7 to +61.3"]
    assert found["p (Holm)"] == ["", "", "< 0.001"]
    assert str(table.title).endswith("test: welch, 3 networks a row")


def test_comparisons_stand_below_their_first_set_with_the_best_baseline_marked():
    found = cells(comparison_table(compare_scores(SCORES)))
    assert found["first less second"] == [
        "ConvNet:",
        "[red]a less",
        "  b, 3 and 3 networks",
        "  random (best), 3 and 1 networks",
        "b less",
        "  random (best), 3 and 1 networks",
    ]
    assert found["p (Holm)"] == ["", "", "< 0.001", "-", "", "-"]


@pytest.mark.parametrize("method", ["welch", "bootstrap"])
def test_a_comparison_says_its_method(method):
    assert f"; test: {method};" in str(comparison_table(compare_scores(SCORES, method)).title)


def test_no_comparison_is_a_table_without_rows():
    table = comparison_table([])
    assert table.row_count == 0
    assert "none" in str(table.title)


def test_robust_scores_in_per_cent():
    rows = [
        RobustScore(of="a", network="ConvNet", score="lrs", mean=0.2482, std=0.0051, how="by seed", weight=0.5),
        RobustScore(of="a", network="ConvNet", score="ior", mean=-0.05, std=None, how="of means", weight=0.5),
    ]
    found = cells(rows_table("robust scores", robust_rows(rows)))
    assert found["score"] == ["lrs", "ior"]
    assert found["mean ± std in %"] == ["24.8 ± 0.5 (of means)", "-5.0 (of means)"]
    assert found["how"] == ["by seed", "of means"]


def test_sets_by_networks():
    table = matrix_table(SCORES)
    found = cells(table)
    assert list(found) == ["set", "ConvNet", "MLP", "selection"]
    assert found["set"] == ["[red]a", "b", "random"]
    assert found["ConvNet"] == ["75.0 ± 5.0 (3)", "25.0 ± 5.0 (3)", "12.5 (1)"]
    assert found["MLP"] == ["50.0 ± 0.0 (2)", "-", "-"]
    assert "digits, protocol mtt" in str(table.title)
    assert str(table.title).endswith("mean ± std (number of networks)")


def test_one_set_chosen_in_two_ways_has_two_rows():
    paper = score("b", "ConvNet", [0.5, 0.5, 0.5], selection="paper")
    found = cells(matrix_table([*SCORES, paper]))
    assert found["set"] == ["[red]a", "b", "random", "b"]
    assert found["selection"] == ["honest", "honest", "honest", "paper"]


def test_rows_of_one_name_are_not_merged():
    rows = [score("a", network, [low, low]) for low in (0.25, 0.75) for network in ("ConvNet", "MLP")]
    found = cells(matrix_table([*rows[:2], *SCORES[2:], *rows[2:]]))
    assert found["set"] == ["a", "b", "random", "a"]
    assert found["ConvNet"] == ["25.0 ± 0.0 (2)", "25.0 ± 5.0 (3)", "12.5 (1)", "75.0 ± 0.0 (2)"]
    assert found["MLP"] == ["25.0 ± 0.0 (2)", "-", "-", "75.0 ± 0.0 (2)"]


def test_rows_are_found_in_whatever_order_networks_come():
    found = cells(matrix_table([SCORES[0], *SCORES[2:], SCORES[1]]))
    assert found["set"] == ["[red]a", "b", "random"]
    assert found["MLP"] == ["50.0 ± 0.0 (2)", "-", "-"]


def test_scores_are_shown_in_per_cent():
    rows = [score("mtt, 1 a class", "ConvNetW8", [0.6, 0.62498], std=0.0126), score("random", "ConvNetW8", [1.0, 1.0])]
    table = matrix_table(rows)
    title = "scores: digits, protocol mtt, test accuracy in %, mean ± std (number of networks)"
    assert str(table.title) == title
    assert cells(table) == {
        "set": ["mtt, 1 a class", "random"],
        "ConvNetW8": ["61.2 ± 1.3 (2)", "100.0 ± 0.0 (2)"],
        "selection": ["honest", "honest"],
    }


@pytest.mark.parametrize("std", [None, 0.0])
def test_a_single_network_has_no_spread(std):
    rows = [score("a", "MLP", [0.5], std=std), score("b", "MLP", [0.5, 0.5], std=0.0)]
    assert cells(matrix_table(rows))["MLP"] == ["50.0 (1)", "50.0 ± 0.0 (2)"]
    assert str(matrix_table(rows[:1]).title).endswith("one network a cell (number of networks)")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_long_names_are_folded_and_not_cut(width):
    names = [f"runs/{'deep/' * 20}{last}" for last in ("first", "other")]
    text = shown(matrix_table([score(name, "ConvNetW32", [0.5, 0.5]) for name in names]), width)
    lines = [line.split("│")[0] for line in text.splitlines() if "│" in line]
    folded = "".join(line.strip() for line in lines)
    assert all(name in folded for name in names)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_names_are_shown_as_they_are():
    odd = score("runs[1]/[red]x[/y]", "timm:[bold]x", [0.5, 0.5], dataset="[old]")
    text = shown(matrix_table([odd]))
    for word in ("runs[1]/[red]x[/y]", "[old], protocol", "timm:[bold]x"):
        assert word in text
    assert "[red]a" in shown(matrix_table(SCORES))


BASELINES = {
    "random, 10 a class": "random",
    "herding (features), 50 a class": "herding",
    "forgetting, 10 a class": "forgetting",
    "kmeans mosaics (2 x 2), 10 a class": "kmeans-mosaic",
}


@pytest.mark.parametrize("make", [matrix_table, comparison_table])
def test_names_as_they_are_in_use_fit_eighty_columns_unfolded(make):
    networks = ("ConvNetW32D3BN", "ResNet18W16", "VGG11W16")
    kinds = dict.fromkeys(("datm/seed-0", "a-longer-folder-of-mtt/seed-0"), "distilled") | BASELINES
    rows = [
        score(name, network, [0.1 * place, 0.1 * place + 0.03, 0.1], kind=kind, std=0.013)
        for network in networks
        for place, (name, kind) in enumerate(kinds.items())
    ]
    given = compare_scores(rows) if make is comparison_table else rows
    text = shown(make(given), width=80)
    assert max(map(len, text.splitlines())) <= 80
    cells_of = {cell.strip() for line in text.splitlines() for cell in line.split("│")}
    words = [str(cell) for column in make(given).columns for cell in (column.header, *column.cells)]
    assert {word.strip() for word in words} <= cells_of


def test_columns_that_do_not_fit_stand_in_a_second_table_with_its_names():
    names = [f"memory {number}, 10 a class" for number in range(6)]
    table = text_table("what", ("set", *names), [("one", *("71.3 ± 0.4",) * 6), ("two", *("5.0",) * 6)])
    lines = [[cell.strip() for cell in line.split("│")] for line in shown(table, 80).splitlines() if "│" in line]
    assert [line[0] for line in lines] == ["set", "one", "two"] * 2
    assert [cell for line in lines if line[0] == "set" for cell in line[1:]] == names
    assert sum(line.count("71.3 ± 0.4") for line in lines) == 6
    whole = shown(table, 200)
    assert whole.count("one") == whole.count("what") == shown(table, 80).count("what") == 1


def test_a_title_is_broken_between_words():
    title = "words " * 30
    screen = Console(file=io.StringIO(), width=60, soft_wrap=True)
    screen.print(text_table(title, ("set",), [("a",)]))
    lines = screen.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).split().count("words") == 30
