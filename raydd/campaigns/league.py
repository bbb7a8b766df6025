"""Equal compute for the methods of a table: what each may take, and the settings that its own search has found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from raydd.campaigns.cell_settings import MissingCell, Options, distill_config, options_of
from raydd.campaigns.plan import Column, League, Plan
from raydd.config.parsing import Tree, merged, nested
from raydd.config.schema import DistillConfig
from raydd.io.document import Document, Finite, Fraction, Whole, read_document, write_document

FOLDER = "league"


class Entry(Document):
    """The file ``league/PLAN/ROW.json``: what a row was given, and what its search found."""

    row: str
    scale: str = ""
    seed: int | None = None
    settings: dict[str, Any] | None = None
    experts: str = ""  # the key of its experts; empty without
    seconds: Finite  # of one worker, for experts, trials and sets
    step_seconds: Finite
    experts_seconds: Finite
    steps: Whole
    gpus: Finite = 0.0  # GPUs of the worker that took the measured steps
    values: dict[str, Any] = Field(default_factory=dict)
    trials: tuple[dict[str, Any], ...] = ()  # each trial's values and its accuracy on held-out images
    accuracy: Fraction | None = None  # the best of them


def column_of(plan: Plan) -> Column:
    """Return the column of a table at equal compute, which has one.

    Raises:
        ValueError: It has several.
    """
    columns = plan.single_columns()
    if len(columns) != 1:
        raise ValueError(f"campaign {plan.name}: settings are searched for one column, and it has {len(columns)}")
    return columns[0]


def seconds_of(plan: Plan, league: League, options: Options) -> float:
    """Return the seconds of a method at a scale."""
    if options.scale.name not in league.seconds:
        known = ", ".join(league.seconds)
        raise ValueError(f"campaign {plan.name} has no compute for --scale {options.scale.name}; use one of {known}")
    return league.seconds[options.scale.name]


def share(plan: Plan, league: League, seconds: float, experts: float, step: float) -> int:
    """Return the outer steps of each distillation: the trials and the sets divide what the experts leave, equally.

    Raises:
        ValueError: The experts leave less than a step.

    >>> from raydd.campaigns.plan import Row
    >>> share(Plan(title="", rows={"MTT": Row(method="mtt")}, columns=(Column(),), sets=3),
    ...     League(seconds={"cpu": 100.0}, trials=7), 100.0, 20.0, 0.5)
    16
    """
    each = (seconds - experts) / (league.trials + plan.sets)
    if each < step:
        raise ValueError(
            f"experts take {experts:.0f} s and a step {step:.2f} s of {seconds:.0f} s, which leaves no step for each "
            f"of {league.trials + plan.sets} distillations; raise league.seconds and name another --out"
        )
    return int(each / step)


def row_config(plan: Plan, name: str, options: Options, steps: int | None = None) -> DistillConfig:
    """Return the configuration of a row before its search, of so many steps; None has those of the scale."""
    row = plan.rows[name]
    if steps is not None:
        row = row.model_copy(update={"exact": merged(row.exact, {"steps": steps})})
    return distill_config(row, column_of(plan), options_of(plan, options))


def learns(plan: Plan, name: str, options: Options) -> bool:
    """Return whether a row is of a method that takes steps, and that the scale has settings for."""
    try:
        return plan.rows[name].method is not None and row_config(plan, name, options).match != "nothing"
    except MissingCell:
        return False


def read_entries(folder: Path, plan: Plan) -> dict[str, Entry]:
    """Return what was measured and found for the rows of a plan, by row; a search that goes on has no trials yet."""
    if plan.league is None:
        return {}
    files = {name: folder / FOLDER / plan.name / f"{slug(name)}.json" for name in plan.rows}
    remedy = "remove it and the folder of its name beside it, and the same command measures and searches again"
    return {name: read_document(file, Entry, remedy) for name, file in files.items() if file.exists()}


def check_entries(plan: Plan, entries: Mapping[str, Entry], options: Options, out: str) -> None:
    """Refuse entries of another scale, seed or settings, or for other seconds, trials or sets."""
    for entry in entries.values():
        for word, then, now in (
            ("--scale", entry.scale or None, options.scale.name),
            ("--seed", entry.seed, options.seed),
            ("--set", entry.settings, dict(options.set)),
        ):
            if then is not None and then != now:
                raise ValueError(
                    f"{out}: the steps and settings of {entry.row} were found with {word} {then}, and this is {now}; "
                    f"give {word} {then}, or name another --out"
                )
        if plan.league is not None:
            seconds = seconds_of(plan, plan.league, options)
            steps = share(plan, plan.league, seconds, entry.experts_seconds, entry.step_seconds)
            if steps != entry.steps:
                raise ValueError(
                    f"{out}: {entry.row} was searched with {entry.steps} steps a set, and campaign {plan.name} gives "
                    f"it {steps}; give it the seconds, trials and sets of before, or name another --out"
                )


def write_entry(folder: Path, plan: Plan, entry: Entry) -> Entry:
    """Write an entry, and return it."""
    path = folder / FOLDER / plan.name / f"{slug(entry.row)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_document(path, entry.model_dump(mode="json"))
    return entry


def search_seconds(plan: Plan, options: Options, entries: Mapping[str, Entry]) -> dict[str, float]:
    """Return the seconds of one worker that the experts and searches of a plan's rows may still take, by row."""
    if plan.league is None:
        return {}
    trials = plan.league.trials
    each = seconds_of(plan, plan.league, options) * trials / (trials + plan.sets)
    rows = [name for name in plan.rows if plan.rows[name].search and options.does(name) and learns(plan, name, options)]
    return {f"search of {plan.name}, {name}": each for name in rows if name not in entries or not entries[name].trials}


def settled(plan: Plan, entries: Mapping[str, Entry], failures: Mapping[str, str] | None = None) -> Plan:
    """Return the plan with the steps and the settings that were found; rows of ``failures`` are missing."""
    rows = dict(plan.rows)
    for name, reason in (failures or {}).items():
        rows[name] = rows[name].model_copy(update={"missing": reason})
    for name, entry in entries.items():
        settings: Tree = merged(rows[name].exact, nested(entry.values), {"steps": entry.steps})
        rows[name] = rows[name].model_copy(update={"exact": settings, "search": {}})
    return plan.model_copy(update={"rows": rows})


def slug(name: str) -> str:
    """Return a row's name as that of a file.

    >>> slug("RaT-BPTT")
    'rat-bptt'
    """
    return "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in name.lower())
