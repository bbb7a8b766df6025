"""The record of a league, and its table and pictures on the page docs/league.md.

    raydd campaign league --scale cpu --data cifar10=PATH --out OUT
    python benchmarks/league.py OUT --write

To make a cell again, for example of DC, put what the record has of the steps and settings into an empty folder first:

    python benchmarks/league.py OUT --restore
    raydd campaign league --scale cpu --data cifar10=PATH --row DC --out OUT

and then compare it with the record, which is left as it is:

    python benchmarks/league.py OUT

The record, benchmarks/league/PLAN.json, has every cell, what each method was given, and all trials of its search;
before the campaign has any set, what the searches found. A campaign may be done in parts, in several folders: rows that
OUT does not have stay as the record has them.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from scipy.stats import friedmanchisquare

from raydd.api.league import search_space
from raydd.campaigns.cell_settings import Options
from raydd.campaigns.league import Entry, column_of, read_entries, slug, write_entry
from raydd.campaigns.plan import OWN, Plan, campaigns, load_plan, published_values
from raydd.campaigns.scales import SCALES
from raydd.campaigns.standings import LEVEL
from raydd.campaigns.table import UNDONE, placed
from raydd.config.parsing import flat
from raydd.evaluation.rank_agreement import kendall
from raydd.evaluation.significance import holm, welch
from raydd.io.files import write_atomic
from raydd.tuning.domains import Domain
from raydd.tuning.results import values_text

FOLDER = Path(__file__).parent / "league"
PAGE = Path(__file__).parents[1] / "docs" / "league.md"
PICTURES = PAGE.parent / "images" / "league"
MEASURED = ("mean", "std", "networks", "values", "sets")
PLACED = ("place", "behind", "interval")
EDGE = 0.025
"""The part of a domain, at each of its ends, that is its edge."""
FEW = 4
"""Rows up to which no rank correlation is told."""
SHOWN, ABREAST = 6, 3
"""How many of the best methods show their images, and how many of them side by side."""


def document_of(out: Path, plan: Plan) -> dict[str, Any]:
    """Return the document of the campaign of a league, empty before it has one."""
    path = out / "campaign.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"plans": [], "cells": []}
    if path.exists() and plan.name not in (names := [other["name"] for other in document["plans"]]):
        raise SystemExit(f"{out} has no table {plan.name}; give --plan {' or '.join(names)}")
    if changed := document.get("settings"):
        words = " ".join(f"--set {key}={value}" for key, value in flat(changed).items())
        raise SystemExit(f"{out} holds a campaign with {words}, which the record has no place for; name another folder")
    rows = {cell["row"]: None for cell in document["cells"] if cell["plan"] == plan.name}
    if gone := [name for name in rows if name not in plan.rows]:
        raise SystemExit(f"{out} has {listed(gone)}, which {plan.name} has no more; repeat its campaign command first")
    return document


def rows_of(out: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """Return what the campaign of a league has found so far, a row of the table each, without places."""
    document = document_of(out, plan)
    rows: dict[str, dict[str, Any]] = {name: {"row": name, "networks": {}} for name in plan.rows}
    for cell in (cell for cell in document["cells"] if cell["plan"] == plan.name):
        row = rows[cell["row"]]
        if cell["mean"] is None:
            row["missing"] = cell["missing"]
            continue
        row["networks"][cell["network"]] = {key: cell[key] for key in MEASURED if cell.get(key) not in (None, [])}
        row |= {key: cell[key] for key in ("seconds", "memory_mb", "run") if cell.get(key)}
        row["commit"] = document.get("commit")
    for name, entry in read_entries(out, plan).items():
        rows[name] |= {"search": entry.model_dump(mode="json", exclude={"row"})}
    return rows


def recorded(plan: Plan) -> dict[str, Any]:
    """Return the record of a league, of no rows before it has one."""
    path = FOLDER / f"{plan.name}.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    return document


def record(out: Path, plan: Plan) -> dict[str, Any]:
    """Return the record of a league with the rows that a folder has, and places among all of them."""
    document, before = document_of(out, plan), recorded(plan)
    kept = {key: document.get(key, before.get(key)) for key in ("scale", "seed")}
    rows = rows_of(out, plan)
    if all(before.get(key) == value for key, value in kept.items()):
        for old in before["rows"]:
            row = rows.get(old["row"])
            if row and not row["networks"] and row.get("search", old.get("search")) == old.get("search"):
                rows[old["row"]] = old
    cells = [
        {"plan": "", "column": "", "row": name, "network": network}
        | {key: value for key, value in cell.items() if key not in PLACED}
        for name, row in rows.items()
        for network, cell in row["networks"].items()
    ]
    for cell in placed(cells):
        known = {key: cell[key] for key in (*MEASURED, *PLACED) if key in cell}
        rows[cell["row"]]["networks"][cell["network"]] = known
    own = ("name", "title", "protocol", "epochs", "seeds", "sets", "league")
    about = {key: value for key, value in plan.model_dump(mode="json").items() if key in own}
    return {"plan": about, **kept, "rows": sorted(rows.values(), key=order)}


def against_record(out: Path, plan: Plan) -> Iterator[str]:
    """Return a line on each row that both a folder and the record have: whether all accuracies are the same bits."""
    before = {row["row"]: row for row in recorded(plan)["rows"]}
    for name, row in rows_of(out, plan).items():
        now, old = row["networks"], before.get(name, {"networks": {}})["networks"]
        if both := now.keys() & old.keys():
            same = all(now[network].get(key) == old[network].get(key) for network in both for key in MEASURED)
            yield f"* {name}: {'the same accuracies as recorded' if same else 'OTHER ACCURACIES THAN RECORDED'}"


def order(row: dict[str, Any]) -> tuple[float, float]:
    """Return where a row stands: by its place on the first network, and by its mean."""
    first = next(iter(row["networks"].values()), None)
    if first is not None:
        return first.get("place", 0), -first["mean"]
    return float("inf"), -(row.get("search", {}).get("accuracy") or 0.0)


def percent(cell: dict[str, Any]) -> str:
    """Return a cell's mean, with its standard deviation where there is one."""
    return f"{100 * cell['mean']:.1f}" + (f" ± {100 * cell['std']:.1f}" if "std" in cell else "")


def settings(search: dict[str, Any], plan: Plan, name: str) -> str:
    """Return the settings that a search found, in words; a value near the edge of its domain says so."""
    if not search["values"]:
        return "-"
    options = Options(SCALES[search["scale"]], seed=search["seed"])
    domains = search_space(plan, plan.league, name, options, search["steps"], None).narrowed
    at_edge = {key for key, value in search["values"].items() if key in domains and near_edge(domains[key], value)}
    words = (
        values_text({key: value}) + (" (edge)" if key in at_edge else "") for key, value in search["values"].items()
    )
    return ", ".join(words)


def near_edge(domain: Domain, value: Any) -> bool:
    """Return whether a value is at an end of its domain.

    >>> near_edge(Domain(log_uniform=(0.02, 2)), 1.99), near_edge(Domain(integer=(1, 4)), 3)
    (True, False)
    """
    if domain.choice is not None or domain.whole:
        return domain.whole and value in (domain.low, domain.high)
    scale = math.log if domain.log_uniform else float
    part = (scale(value) - scale(domain.low)) / (scale(domain.high) - scale(domain.low))
    return not 1 - EDGE > part > EDGE


def missing(found: dict[str, Any]) -> Iterator[str]:
    """Return a line on each row that has no sets, with the reason."""
    for row in found["rows"]:
        if not row["networks"] and row.get("missing", UNDONE) != UNDONE:
            yield f"* {row['row']} is missing: {row['missing']}"


def lines(found: dict[str, Any], plan: Plan) -> list[str]:
    """Return the lines of the page's table."""
    networks = [*next((row["networks"] for row in found["rows"] if row["networks"]), [])]
    costs = ["held out", "experts' share", "steps a set", "s a step", "s a set", "peak MB", "settings found"]
    costs = costs if any(row.get("search") for row in found["rows"]) else []
    head = ["place", "method", *networks, *costs]
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in found["rows"]:
        if not row["networks"] and not row.get("search"):
            continue
        cells = [row["networks"].get(network) for network in networks]
        words = [
            percent(cell) + (f" (#{cell.get('place', '-')})" if at else "") if cell else "-"
            for at, cell in enumerate(cells)
        ]
        search, first = row.get("search"), next(iter(cells), None) or {}
        cost = ["-"] * len(costs)
        if search:
            held_out = "-" if search["accuracy"] is None else f"{100 * search['accuracy']:.1f}"
            share = f"{100 * search['experts_seconds'] / search['seconds']:.0f} %" if search["experts"] else "-"
            took, memory = (f"{row[key]:.0f}" if row.get(key) else "-" for key in ("seconds", "memory_mb"))
            step = f"{search['step_seconds']:.2g}"
            cost = [held_out, share, f"{search['steps']}", step, took, memory, settings(search, plan, row["row"])]
        table.append(f"| {' | '.join([str(first.get('place', '-')), row['row'], *words, *cost])} |")
    return table


def undone(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that are still to be measured."""
    return [row for row in found["rows"] if not row["networks"] and row.get("missing", UNDONE) == UNDONE]


def shown(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows whose images are shown: the best, once all are measured."""
    return [] if undone(found) else [row for row in found["rows"] if row.get("search") and row.get("run")][:SHOWN]


def pictures(found: dict[str, Any]) -> list[str]:
    """Return the lines of the page's pictures, each below the name of its row."""
    rows, name = shown(found), found["plan"]["name"]
    said = list[str]()
    for some in (rows[at : at + ABREAST] for at in range(0, len(rows), ABREAST)):
        names, bars = [row["row"] for row in some], ["---"] * len(some)
        images = [f"![{row}](images/league/{name}-{slug(row)}.png)" for row in names]
        said += ["", *(f"| {' | '.join(cells)} |" for cells in (names, bars, images))]
    return said[1:]


def sentences(found: dict[str, Any], plan: Plan) -> list[str]:
    """Return what the table says: what wins, what ties, where the papers have another order, and on what it rests."""
    if left := undone(found):
        done = len(found["rows"]) - len(left)
        return [f"* The campaign is under way: {done} of {len(found['rows'])} rows are measured."]
    names = [*next((row["networks"] for row in found["rows"] if row["networks"]), [])]
    rows = [row for row in found["rows"] if all(row["networks"].get(name, {}).get("place") for name in names)]
    if not names or not rows:
        return []
    cells = {row["row"]: row["networks"][names[0]] for row in rows}
    said = [winner(cells), *ties(cells), *against_papers(cells, plan)]
    for name in names[1:] if len(rows) > FEW else ():
        both = [(row["networks"][names[0]]["mean"], row["networks"][name]["mean"]) for row in rows]
        agreed = kendall(*zip(*both, strict=True))
        said.append(f"On {name} the order is that on {names[0]} with Kendall's tau {agreed:.2f}, of {len(both)} rows.")
    return [f"* {sentence}" for sentence in [*said, *seeds(cells)]]


def winner(cells: dict[str, Any]) -> str:
    """Return the sentence about the best row, and the next one that is told apart from it, or else the next one."""
    first, *tied = [name for name, cell in cells.items() if cell["place"] == 1]
    behind = next((name for name, cell in cells.items() if cell["place"] > 1), None)
    said = f"**{first}** is best, at {percent(cells[first])} %" + (f", and {listed(tied)} tied with it" if tied else "")
    if (other := behind or next(iter(tied), None)) is None:
        return said + "."
    apart = f"{100 * (cells[first]['mean'] - cells[other]['mean']):.1f} points"
    if cells[first].get("sets") and cells[other].get("sets"):
        test = welch(cells[first]["sets"], cells[other]["sets"])
        if test.low is not None and test.high is not None:
            apart += f" (95 % interval {100 * test.low:.1f} to {100 * test.high:.1f})"
    return f"{said}; {other}{', the first row that is told apart,' if behind else ''} is {apart} behind."


def ties(cells: dict[str, Any]) -> Iterator[str]:
    """Return the sentence about rows that are tied behind the best place."""
    places: dict[int, list[str]] = {}
    for name, cell in cells.items():
        places.setdefault(cell["place"], []).append(name)
    tied = [names for place, names in places.items() if place > 1 and len(names) > 1]
    if tied:
        yield f"Behind it are tied: {'; '.join(map(listed, tied))}."


def published_orders(plan: Plan) -> dict[str, dict[str, list[bool]]]:
    """Return for pairs of rows whether papers have the first above the second, in tables of the same data and size.

    Pairs that a paper does not order by more than the sum of their deviations are left out, as are values without one.
    """
    wanted, orders = column_of(plan), dict[str, dict[str, list[bool]]]()
    for other in map(load_plan, campaigns()):
        for at, column in enumerate(other.single_columns() if other.measure == "accuracy" else ()):
            if (column.dataset, column.ipc, column.set, other.networks) != (wanted.dataset, wanted.ipc, {}, (OWN,)):
                continue
            names = [name for name in plan.rows if name in other.rows and other.rows[name].missing is None]
            printed = {name: values[at] for name, values in published_values(other).items() if name in names}
            known = sorted((name, one.mean, one.std) for name, one in printed.items() if one and one.std is not None)
            for (first, one, std), (second, two, other_std) in combinations(known, 2):
                if abs(one - two) > std + other_std:
                    orders.setdefault(first, {}).setdefault(second, []).append(one > two)
    return orders


def against_papers(cells: dict[str, Any], plan: Plan) -> Iterator[str]:
    """Return the sentence about pairs of rows that papers' tables order: each is tested, with Holm's adjustment."""
    pairs = [
        (first, second, orders[0])
        for first, others in published_orders(plan).items()
        for second, orders in others.items()
        if len({*orders}) == 1 and all(cells.get(name, {}).get("sets") for name in (first, second))
    ]
    tests = [welch(cells[first]["sets"], cells[second]["sets"]) for first, second, _ in pairs]
    below: dict[str, list[str]] = {}
    same = 0
    for (first, second, above), test, p in zip(pairs, tests, holm(test.p for test in tests), strict=True):
        if p is not None and p < LEVEL:
            upper, lower = (first, second) if above else (second, first)
            if (test.difference > 0) == above:
                same += 1
            else:
                below.setdefault(upper, []).append(lower)
    if pairs:
        count = sum(map(len, below.values()))
        rest = "; ".join(f"{name} is below {listed(others)}" for name, others in sorted(below.items()))
        said = f"Of {len(pairs)} pairs that the papers' tables order: {same} in the same order here, {count} reversed"
        yield f"{said}, {len(pairs) - same - count} not told apart{': ' if rest else ''}{rest}."


def seeds(cells: dict[str, Any]) -> Iterator[str]:
    """Return the sentence about what sets of one seed have in common, on which it rests that no test is paired."""
    sets = [cell["sets"] for cell in cells.values() if cell.get("sets")]
    if len(sets) > 2 and min(map(len, sets)) > 2:
        test = friedmanchisquare(*zip(*sets, strict=True))
        about = f"(Friedman's test, {len(sets)} rows of {len(sets[0])} sets, p = {test.pvalue:.2f})"
        if test.pvalue < LEVEL:
            yield f"Sets of one seed have something in common {about}, which the tests leave out: none is paired."
        else:
            yield f"Nothing shows that sets of one seed have something in common {about}, so that no test is paired."


def listed(names: list[str]) -> str:
    """Return names as a list in words.

    >>> listed(["DM", "DSA", "MTT"])
    'DM, DSA and MTT'
    """
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def block(found: dict[str, Any], plan: Plan) -> str:
    """Return what the page has between the marks of a plan."""
    said = [*sentences(found, plan), *missing(found)]
    return "\n".join(["", *said, *([""] if said else []), *lines(found, plan), "", *pictures(found), ""])


def marked(page: str, name: str) -> tuple[str, str, str]:
    """Return a page before, between and after the marks of a plan."""
    before, found, rest = page.partition(f"<!-- league: {name} -->")
    between, end, after = rest.partition("<!-- end -->")
    if not found or not end:
        raise SystemExit(f"{PAGE} has no marks of {name}; write them where its table belongs")
    return before + found, between, end + after


def restore(out: Path, plan: Plan) -> None:
    """Write the entries of the record, in the place of those that a campaign would measure and search."""
    rows = recorded(plan)["rows"]
    if not rows:
        raise SystemExit(f"there is no record of {plan.name}: {FOLDER / plan.name}.json is missing")
    if read_entries(out, plan):
        raise SystemExit(f"{out} has a league of its own; name an empty folder")
    for row in rows:
        if row.get("search"):
            write_entry(out, plan, Entry.model_validate_json(json.dumps({"row": row["row"], **row["search"]})))


def main() -> None:
    """Print a league's table, and write its record, table and pictures where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--plan", default="league", help="the campaign's plan, a name or a file")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--restore", action="store_true", help="write the record's steps and settings into OUT instead")
    given = parser.parse_args()
    try:
        plan = load_plan(given.plan)
    except ValueError as error:
        parser.error(str(error))
    if given.restore:
        restore(given.out, plan)
        return
    if not given.out.is_dir():
        parser.error(f"{given.out} is no folder; name that of a campaign")
    found = record(given.out, plan)
    print("\n".join([*sentences(found, plan), *missing(found), *lines(found, plan), *against_record(given.out, plan)]))
    if not given.write:
        return
    name = found["plan"]["name"]
    before, _, after = marked(PAGE.read_text(encoding="utf-8"), name)
    FOLDER.mkdir(exist_ok=True)
    write_atomic(FOLDER / f"{name}.json", (json.dumps(found, indent=1) + "\n").encode())
    PICTURES.mkdir(parents=True, exist_ok=True)
    for row in shown(found):
        picture, here = given.out / row["run"] / "synset.png", PICTURES / f"{name}-{slug(row['row'])}.png"
        if picture.exists():
            shutil.copy(picture, here)
        elif not here.exists():
            print(f"{picture} is missing: the page needs it; make {row['row']} again with --row")
    write_atomic(PAGE, (before + block(found, plan) + after).encode())


if __name__ == "__main__":
    main()
