"""Tables at equal compute: each method's steps are measured, and its settings searched, before its sets are made."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from raydd.api.distill import distill
from raydd.api.epoch_time import epoch_seconds
from raydd.api.experts import train_experts
from raydd.api.tune import Options as Search, tune
from raydd.campaigns.budget import Budget
from raydd.campaigns.cell_settings import Options
from raydd.campaigns.graph import experts_key
from raydd.campaigns.league import (
    FOLDER,
    Entry,
    column_of,
    learns,
    read_entries,
    row_config,
    seconds_of,
    settled,
    share,
    slug,
    write_entry,
)
from raydd.campaigns.plan import League, Plan
from raydd.campaigns.records import on_gpu, run_costs
from raydd.config.parsing import Tree, flat, merged
from raydd.config.placement import Where
from raydd.config.schema import ExpertsConfig
from raydd.io.console import QuietScreen, Screen
from raydd.io.uri import public_uri
from raydd.run.resolve import needs_experts
from raydd.run.storage import RunStorage
from raydd.tuning.location import location_of
from raydd.tuning.results import AllTrialsFailed, accuracy_of
from raydd.tuning.space import Space
from raydd.tuning.space_files import make_space

SCORED = {"evaluate_networks": 2, "evaluate_epochs": 300}
"""How a trial is scored on held-out images."""
MEASURED_SECONDS = 8.0
"""How long the steps take at least by which the time of a step is measured."""
MOST_MEASURED = 256
INSIDE = "window.high + span <= experts.epochs"
"""What a search of segments keeps to: they end with the experts' epochs, of which smaller scales have fewer."""
CHECKED_STEPS = 50
"""A number of steps with which every search can be checked."""

_QUIET = QuietScreen(lambda line: None)
PathOf = Callable[..., Path | str]


class Settled(NamedTuple):
    """A plan after its searches.

    Attributes:
        plan: The plan, with the steps and settings of its rows.
        failures: By row, why its search failed or was not begun.
    """

    plan: Plan
    failures: Mapping[str, str] = MappingProxyType({})


def settle(
    plan: Plan, options: Options, storage: RunStorage, path: PathOf, where: Where, screen: Screen, budget: Budget
) -> Settled:
    """Return a plan whose rows have the settings that their searches found; what is known already is not searched.

    Args:
        plan: The table.
        options: How the campaign runs.
        storage: Holds ``league/PLAN/ROW.json``, a `raydd.campaigns.league.Entry` a row.
        path: Returns where a part of the campaign lies, a folder or a URI.
        where: Device, cluster and number of workers.
        screen: Shows progress.
        budget: Takes what GPUs are given, and says whether another row may begin; rows that are left are missing.

    A row whose search fails is missing, with the reason, and the others go on; the next call tries it again.
    """
    if plan.league is None:
        return Settled(plan)
    entries, failures, saves = read_entries(storage.folder, plan), dict[str, str](), count(storage.saved + 1)
    rows = [name for name in plan.rows if options.does(name) and learns(plan, name, options)]

    def keep(entry: Entry, seconds: float) -> None:
        budget.gpu_seconds += entry.gpus * seconds
        entries[entry.row] = write_entry(storage.folder, plan, entry)
        storage.save(next(saves), "league")

    for number, name in enumerate(rows, start=1):
        search = _Search(plan, plan.league, name, options, path, where, screen)
        try:
            if name in entries and (entries[name].trials or not plan.rows[name].search):
                continue
            if not budget.may_start:
                failures[name] = "the budget was spent before its search"
                continue
            if name not in entries:
                screen.note(f"{name}: measuring its steps, {number} of {len(rows)}")
                others = [*entries.values()]
                measured = search.measure(others)
                trained = not any(entry.experts == measured.experts for entry in others)
                keep(measured, measured.experts_seconds if trained else 0.0)
            if plan.rows[name].search:
                screen.note(f"{name}: searching its settings, {number} of {len(rows)}")
                entry = search.search(entries[name])
                keep(entry, len(entry.trials) * entry.steps * entry.step_seconds)
        except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
            failures[name] = " ".join(str(error).split())
            screen.note(f"failed: {name}: {failures[name]}")
    return Settled(settled(plan, entries, failures), failures)


def check_league(plan: Plan, options: Options) -> None:
    """Refuse a table whose searches cannot be done, before anything is measured."""
    if plan.league is None:
        return
    column_of(plan)
    seconds_of(plan, plan.league, options)
    files = [slug(name) for name in plan.rows]
    if twice := [name for name in plan.rows if files.count(slug(name)) > 1]:
        raise ValueError(f"campaign {plan.name}: rows {' and '.join(twice)} have one file name; rename one")
    for name, row in plan.rows.items():
        if row.search and learns(plan, name, options):
            search_space(plan, plan.league, name, options, CHECKED_STEPS, None)


def search_space(plan: Plan, league: League, name: str, options: Options, steps: int, buffer: str | None) -> Space:
    """Return the space of a row: all trials have its steps, and the first one its own settings."""
    row, config = plan.rows[name], row_config(plan, name, options, steps)
    fixed = merged(config.model_dump(mode="json", exclude_unset=True), SCORED)
    fixed = {key: value for key, value in fixed.items() if key not in ("method", "ipc", "seed")}
    source = f"campaign {plan.name}, rows.{name}.search"
    try:
        domains = _domains(row.search, flat(config))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    tree = {
        "name": slug(name),
        "method": config.method,
        "dataset": options.scale.dataset or column_of(plan).dataset,
        "ipc": config.ipc,
        "set": fixed | {"evaluate_every": steps},
        "domains": domains,
        "constraints": (INSIDE,) if {"window.high", "span"} & {*domains} else (),
        "search": {"algorithm": "tpe", "startup": max(2, league.trials // 2)},
        "budget": {"samples": league.trials, "reports": 1},
        "seed": options.seed,
        "buffer": buffer,
    }
    space = make_space(tree, source)
    if space.preset_values() is None:
        raise ValueError(f"{source}: the row's own values are outside these domains; widen them")
    return space


def _domains(search: Tree, own: Mapping[str, Any]) -> Tree:
    """Return the domains of a search, where ``times: F`` is from an F-th of the row's own value to F times it.

    >>> _domains({"lr.images": {"times": 10}}, {"lr.images": 0.5})
    {'lr.images': {'log_uniform': [0.05, 5.0]}}
    """
    domains: Tree = {}
    for key, domain in search.items():
        domains[key] = domain
        if isinstance(domain, dict) and "times" in domain:
            factor, value = domain["times"], own.get(key)
            if not isinstance(factor, int | float) or factor <= 1:
                raise ValueError(f"{key}: times is a number above 1, and not {factor!r}")
            if not isinstance(value, int | float) or value <= 0:
                what = f"is {value}" if key in own else "is no setting"
                raise ValueError(f"{key}: times is of a number above 0, and {key} {what}; give its domain in full")
            domains[key] = {"log_uniform": [value / factor, value * factor]}
    return domains


class _Search:
    """The search of a row's settings."""

    def __init__(
        self, plan: Plan, league: League, name: str, options: Options, path: PathOf, where: Where, screen: Screen
    ) -> None:
        self._plan, self._league, self._name, self._options = plan, league, name, options
        self._path, self._where, self._screen = path, where, screen
        self._config = row_config(plan, name, options)

    def measure(self, others: Sequence[Entry]) -> Entry:
        """Return how long a step takes, and how many steps the row has; ``others`` may have the same experts."""
        key, buffer = self._experts()
        known = next((entry.experts_seconds for entry in others if key and entry.experts == key), None)
        experts_seconds = 0.0 if not key else self._experts_seconds() if known is None else known
        (step_seconds, gpu), seconds = self._step(buffer), seconds_of(self._plan, self._league, self._options)
        steps = share(self._plan, self._league, seconds, experts_seconds, step_seconds)
        self._screen.note(f"{self._name}: {step_seconds:.3g} s a step, {steps} steps a set")
        return Entry(
            row=self._name,
            scale=self._options.scale.name,
            seed=self._options.seed,
            settings=dict(self._options.set),
            experts=key,
            seconds=seconds,
            step_seconds=step_seconds,
            experts_seconds=experts_seconds,
            steps=steps,
            gpus=gpu * (1.0 if self._where.gpus_per_worker is None else self._where.gpus_per_worker),
        )

    def search(self, entry: Entry) -> Entry:
        """Return the entry with what the row's search found."""
        _, buffer = self._experts()
        place = None if buffer is None else str(buffer)
        space = search_space(self._plan, self._league, self._name, self._options, entry.steps, place)
        out = self._path(FOLDER, self._plan.name, slug(self._name))
        options = Search(evaluation=None)
        if self._where.num_workers is not None:
            options["max_concurrent"] = self._where.num_workers
        if self._where.gpus_per_worker is not None:
            options["gpus_per_trial"] = self._where.gpus_per_worker
        try:
            resume = location_of(out).has_search()
            results = tune(space, out, resume=resume, where=self._where, screen=self._screen, **options)
        except AllTrialsFailed as error:
            remedy = f"remove {public_uri(str(out))}, and the same command searches again"
            raise ValueError(f"{error.reason}; {remedy}") from None
        if results.best is None:
            raise ValueError("no trial of its search has ended")
        trials = tuple(
            {"values": one.values, "accuracy": accuracy_of(one), "state": one.state} for one in results.trials
        )
        best = {"values": dict(results.best.values), "trials": trials, "accuracy": accuracy_of(results.best)}
        return entry.model_copy(update=best)

    @property
    def _wanted(self) -> ExpertsConfig:
        return ExpertsConfig(data=self._config.data, experts=self._config.experts, seed=self._config.seed)

    def _experts(self) -> tuple[str, Path | str | None]:
        """Train the row's experts, and return their key and place; empty and None without."""
        if not needs_experts(self._config):
            return "", None
        key = experts_key(self._wanted)
        place = self._path("experts", key)
        train_experts(self._wanted, place, where=self._where, screen=self._screen)
        return key, place

    def _experts_seconds(self) -> float:
        """Return the seconds of one worker that the row's experts take."""
        epoch, recipe = epoch_seconds(self._wanted, self._where), self._wanted.experts
        self._screen.note(f"{self._name}: {epoch:.3g} s an epoch of an expert")
        return epoch * recipe.epochs * recipe.num_experts

    def _step(self, buffer: Path | str | None) -> tuple[float, bool]:
        """Return the seconds of an outer step, from a run of some, and whether that was on a GPU."""
        steps, where = 2, self._where._replace(num_workers=1)
        while True:
            with tempfile.TemporaryDirectory(prefix="raydd-league-") as folder:
                config = self._config.model_copy(update={"steps": steps, "evaluate_every": None, "keep_scored": False})
                distill(config, folder, buffer=buffer, where=where, screen=_QUIET)
                seconds, gpu = float(run_costs(folder, steps)["run_seconds"] or 0.0), on_gpu(folder)
            if seconds >= MEASURED_SECONDS or steps >= MOST_MEASURED:
                return max(seconds / steps, 1e-6), gpu
            steps = min(MOST_MEASURED, max(2 * steps, int(1.2 * steps * MEASURED_SECONDS / max(seconds, 1e-3))))
