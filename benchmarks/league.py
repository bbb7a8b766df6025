"""The record of a league, and its table and pictures on the page docs/league.md.

    raydd campaign league --scale cpu --data cifar10=PATH --out OUT
    python benchmarks/league.py OUT --write

To make a cell again, for example of DC, put what the record has of the steps and settings into an empty folder first:

    python benchmarks/league.py OUT --restore
    raydd campaign league --scale cpu --data cifar10=PATH --row DC --out OUT

The record, benchmarks/league/PLAN.json, has every cell, what each method was given, and all trials of its search;
before the campaign has any set, what the searches found.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from raydd.campaigns.league import Entry, read_entries, slug, write_entry
from raydd.campaigns.plan import Plan, load_plan
from raydd.io.files import write_atomic
from raydd.tuning.results import values_text

FOLDER = Path(__file__).parent / "league"
PAGE = Path(__file__).parents[1] / "docs" / "league.md"
PICTURES = PAGE.parent / "images" / "league"
KEPT = ("mean", "std", "networks", "sets", "place", "behind", "interval")
SHOWN = 6
"""How many of the best methods show their images."""


def record(out: Path, plan: Plan) -> dict[str, Any]:
    """Return what the campaign of a league has found so far, a row of the table each."""
    path = out / "campaign.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": []}
    rows: dict[str, dict[str, Any]] = {name: {"row": name, "networks": {}} for name in plan.rows}
    for cell in document["cells"]:
        row = rows[cell["row"]]
        if cell["mean"] is None:
            row["missing"] = cell["missing"]
            continue
        row["networks"][cell["network"]] = {key: cell[key] for key in KEPT if cell.get(key) is not None}
        row |= {key: cell[key] for key in ("seconds", "memory_mb", "run") if cell.get(key)}
    for name, entry in read_entries(out, plan).items():
        rows[name] |= {"search": entry.model_dump(mode="json", exclude={"row"})}
    own = ("name", "title", "protocol", "epochs", "seeds", "sets", "league")
    about = {key: value for key, value in plan.model_dump(mode="json").items() if key in own}
    kept = {key: document.get(key) for key in ("scale", "seed", "seconds", "commit")}
    return {"plan": about, **kept, "rows": sorted(rows.values(), key=order)}


def order(row: dict[str, Any]) -> tuple[float, float]:
    """Return where a row stands: by its place on the first network, and by its mean."""
    first = next(iter(row["networks"].values()), None)
    if first is not None:
        return first.get("place", 0), -first["mean"]
    return float("inf"), -(row.get("search", {}).get("accuracy") or 0.0)


def percent(cell: dict[str, Any]) -> str:
    """Return a cell's mean, with its standard deviation where there is one."""
    return f"{100 * cell['mean']:.1f}" + (f" ± {100 * cell['std']:.1f}" if "std" in cell else "")


def lines(found: dict[str, Any]) -> list[str]:
    """Return the lines of the page's table."""
    networks = [*next((row["networks"] for row in found["rows"] if row["networks"]), [])]
    costs = ["held out", "experts' share", "steps a set", "s a step", "peak MB", "settings found"]
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
            values = values_text(search["values"])
            share = f"{100 * search['experts_seconds'] / search['seconds']:.0f} %" if search["experts"] else "-"
            memory = f"{row['memory_mb']:.0f}" if row.get("memory_mb") else "-"
            cost = [held_out, share, f"{search['steps']}", f"{search['step_seconds']:.2g}", memory, values or "-"]
        table.append(f"| {' | '.join([str(first.get('place', '-')), row['row'], *words, *cost])} |")
    return table


def shown(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows whose images are shown."""
    return [row for row in found["rows"] if row.get("search") and row.get("run")][:SHOWN]


def pictures(found: dict[str, Any]) -> list[str]:
    """Return the lines of the page's pictures."""
    name = found["plan"]["name"]
    return [f"![{row['row']}](images/league/{name}-{slug(row['row'])}.png)" for row in shown(found)]


def block(found: dict[str, Any]) -> str:
    """Return what the page has between the marks of a plan."""
    return "\n".join(["", *lines(found), "", *pictures(found), ""])


def marked(page: str, name: str) -> tuple[str, str, str]:
    """Return a page before, between and after the marks of a plan."""
    before, found, rest = page.partition(f"<!-- league: {name} -->")
    between, end, after = rest.partition("<!-- end -->")
    if not found or not end:
        raise SystemExit(f"{PAGE} has no marks of {name}; write them where its table belongs")
    return before + found, between, end + after


def restore(out: Path, plan: Plan) -> None:
    """Write the entries of the record, in the place of those that a campaign would measure and search."""
    path = FOLDER / f"{plan.name}.json"
    if not path.exists():
        raise SystemExit(f"there is no record of {plan.name}: {path} is missing")
    if read_entries(out, plan):
        raise SystemExit(f"{out} has a league of its own; name an empty folder")
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
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
    found = record(given.out, plan)
    print("\n".join(lines(found)))
    if not given.write:
        return
    name = found["plan"]["name"]
    before, _, after = marked(PAGE.read_text(encoding="utf-8"), name)
    FOLDER.mkdir(exist_ok=True)
    write_atomic(FOLDER / f"{name}.json", (json.dumps(found, indent=1) + "\n").encode())
    PICTURES.mkdir(parents=True, exist_ok=True)
    for row in shown(found):
        shutil.copy(given.out / row["run"] / "synset.png", PICTURES / f"{name}-{slug(row['row'])}.png")
    write_atomic(PAGE, (before + block(found) + after).encode())


if __name__ == "__main__":
    main()
