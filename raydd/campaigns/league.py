"""Equal compute for the methods of a table: what each may take, and the settings that its own search has found."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field

from raydd.campaigns.graph import MissingCell, Options, distill_config, options_of
from raydd.campaigns.plan import Column, League, Plan
from raydd.campaigns.scales import over
from raydd.config.parsing import Tree, flat, nested
from raydd.config.schema import DistillConfig
from raydd.io.document import Document, Finite, Fraction, Whole
from raydd.tuning.space import Space
from raydd.tuning.space_files import make_space

SCORED = {"evaluate_networks": 2, "evaluate_epochs": 300}
"""How a trial is scored on held-out images."""


class Entry(Document):
    """The file ``league/ROW.json``: what a row was given, and what its search found."""

    row: str
    experts: str = ""  # the key of its experts; empty without
    seconds: Finite  # of one worker, for experts, trials and sets
    step_seconds: Finite
    experts_seconds: Finite
    steps: Whole
    values: dict[str, Any] = Field(default_factory=dict)
    trials: tuple[dict[str, Any], ...] = ()  # each trial's values and its accuracy on held-out images
    accuracy: Fraction | None = None  # the best of them


class Share(NamedTuple):
    """A row's share of the compute.

    Attributes:
        steps: Outer steps of a distillation.
        seconds: Of one distillation.
    """

    steps: int
    seconds: float


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


def share(plan: Plan, league: League, seconds: float, experts: float, step: float) -> Share:
    """Return the steps of each distillation: the trials and the sets divide what the experts leave, equally.

    Raises:
        ValueError: The experts leave less than a step.

    >>> from raydd.campaigns.plan import Row
    >>> share(Plan(title="", rows={"MTT": Row(method="mtt")}, columns=(Column(),), sets=3),
    ...     League(seconds={"cpu": 100.0}, trials=7), 100.0, 20.0, 0.5)
    Share(steps=16, seconds=8.0)
    """
    each = (seconds - experts) / (league.trials + plan.sets)
    if each < step:
        raise ValueError(
            f"experts take {experts:.0f} s and a step {step:.2f} s of {seconds:.0f} s, which leaves no step for each "
            f"of {league.trials + plan.sets} distillations; raise league.seconds"
        )
    return Share(int(each / step), each)


def row_config(plan: Plan, name: str, options: Options) -> DistillConfig:
    """Return the configuration of a row before its search."""
    return distill_config(plan.rows[name], column_of(plan), options_of(plan, options))


def learns(plan: Plan, name: str, options: Options) -> bool:
    """Return whether a row is of a method that takes steps, and that the scale has settings for."""
    try:
        return plan.rows[name].method is not None and row_config(plan, name, options).match != "nothing"
    except MissingCell:
        return False


def search_space(plan: Plan, league: League, name: str, options: Options, steps: int, buffer: str | None) -> Space:
    """Return the space of a row: all trials have its steps, and the first one its own settings."""
    row, config = plan.rows[name], row_config(plan, name, options)
    fixed = over(config.model_dump(mode="json", exclude_unset=True), {"steps": steps, **SCORED})
    fixed = {key: value for key, value in fixed.items() if key not in ("method", "ipc", "seed")}
    return make_space(
        {
            "name": slug(name),
            "method": config.method,
            "dataset": options.scale.dataset or column_of(plan).dataset,
            "ipc": config.ipc,
            "set": fixed | {"evaluate_every": steps},
            "domains": _domains(row.search, flat(config)),
            "search": {"algorithm": "tpe", "startup": max(2, league.trials // 2)},
            "budget": {"samples": league.trials, "reports": 1},
            "seed": options.seed,
            "buffer": buffer,
        },
        f"campaign {plan.name}, rows.{name}.search",
    )


def _domains(search: Tree, own: Mapping[str, Any]) -> Tree:
    """Return the domains of a search, where ``times: F`` is from an F-th of the row's own value to F times it.

    >>> _domains({"lr.images": {"times": 10}}, {"lr.images": 0.5})
    {'lr.images': {'log_uniform': [0.05, 5.0]}}
    """
    domains: Tree = {}
    for key, domain in search.items():
        factor = domain.get("times") if isinstance(domain, dict) else None
        domains[key] = {"log_uniform": [own[key] / factor, own[key] * factor]} if factor else domain
    return domains


def settled(plan: Plan, entries: Mapping[str, Entry]) -> Plan:
    """Return the plan with the steps and the settings that were found, and nothing left to search."""
    rows = dict(plan.rows)
    for name, entry in entries.items():
        found: Tree = over(nested(entry.values), {"steps": entry.steps})
        rows[name] = rows[name].model_copy(update={"found": found, "search": {}})
    return plan.model_copy(update={"rows": rows})


def slug(name: str) -> str:
    """Return a row's name as that of a file.

    >>> slug("RaT-BPTT")
    'rat-bptt'
    """
    return "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in name.lower())
