"""The study of a search in Optuna's journal: proposes values, decides which trials stop, stores the reports.

The journal is one file that ``optuna-dashboard`` can open. Every decision follows from the space and this file alone,
so that a resumed search continues as if it had not been interrupted.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import Field

from raydd.io.document import Document, Whole, validate
from raydd.numerics.rng import generator
from raydd.tuning.domains import Domain
from raydd.tuning.journal import new_study, open_storage, open_study
from raydd.tuning.results import Record, State
from raydd.tuning.space import Space

DRAWS = 10_000  # draws of one point, with those that violate a constraint, before the space is refused
GUIDED = 100  # draws of one point by the model; later ones are random, since a model can prefer a forbidden corner
FRESH = 200  # draws of one point that avoid earlier points; later ones may repeat a point

Metrics = Mapping[str, float]
STATES: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


class Proposal(NamedTuple):
    """A trial to run: its number in the search, from 0, and its settings by dotted name."""

    number: int
    values: dict[str, Any]


class _TrialDocument(Document):
    """The schema of a trial's attributes in the journal."""

    metrics: dict[str, float] = Field(default={})
    stop: Whole | None = None
    error: str = ""


class Study:
    """The trials of one search space. One process at a time writes the file."""

    def __init__(self, space: Space, file: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self._storage = open_storage(file)
        self._study = self._open(file)
        self._pruner = _pruner(space)
        self._grid = space.grid() if space.search.algorithm == "grid" else []
        self._earlier = len(self)

    def _open(self, file: Path) -> optuna.Study:
        """Return the journal's study after checking that all its trials can be read."""
        try:
            study = open_study(self.space, self._storage, file)
            for trial in study.get_trials(deepcopy=False):
                validate(_TrialDocument, trial.user_attrs)
                self._values(trial.params)
        except Exception as error:  # Optuna does not validate the file
            if isinstance(error, ValueError) and str(error).startswith(str(file.parent)):
                raise
            raise ValueError(f"{file} is not the journal of a search, or is damaged; use another --out") from None
        return study

    def __len__(self) -> int:
        return len(self._trials())

    def propose(self, ask: Callable[[], dict[str, Any] | None] | None = None) -> Proposal | None:
        """Add the next trial as running and return it; None when all points of a grid were proposed.

        ``ask`` returns the values instead, which the space allows, or None; it is not asked for the preset's trial.

        Trial k's values depend on (seed, k) and on the trials before it, but not on time or process. In a random
        search or a grid they do not depend on results either.
        """
        number = len(self)
        point = self._fixed_point(number)
        if point is None and self.space.search.algorithm == "grid":
            return None
        if point is None and ask is not None and (point := ask()) is None:
            return None
        drawn = self._draw(number, point)
        # One line of the journal, so that a kill leaves a complete trial or none.
        running = TrialState.RUNNING
        self._study.add_trial(create_trial(state=running, params=drawn.params, distributions=drawn.distributions))
        return Proposal(number, self._values(self._trials()[number].params))

    def unfinished(self) -> list[Proposal]:
        """Return the trials that an earlier process left running, oldest first."""
        left = [trial for trial in self._trials()[: self._earlier] if not trial.state.is_finished()]
        return [Proposal(trial.number, self._settings(trial)) for trial in left]

    def report(self, number: int, index: int, metrics: Metrics) -> bool:
        """Record a trial's report, and return whether the trial must stop.

        A repeated report changes nothing and gets the same answer. The scheduler never stops a trial with several
        metrics or at the last report; an accuracy that is not a number always stops it.
        """
        trial = self._trials()[number]
        stop_at = trial.user_attrs.get("stop", math.inf)
        if trial.state.is_finished() or index in trial.intermediate_values:
            return trial.state is TrialState.PRUNED or index >= stop_at
        accuracy = float(metrics["accuracy"])
        if not math.isfinite(accuracy):
            return len(self.space.directions) == 1
        stop, rungs = self._prunes(number, index, accuracy)
        # The decision first and the accuracy last: after a kill in between, the same report is decided again.
        if stop and index < stop_at:
            self._storage.set_trial_user_attr(trial._trial_id, "stop", index)
        for key in rungs.keys() - trial.system_attrs.keys():
            self._storage.set_trial_system_attr(trial._trial_id, key, rungs[key])
        self._store(trial, metrics)
        self._storage.set_trial_intermediate_value(trial._trial_id, index, accuracy)
        return stop or index >= stop_at

    def change(self, number: int, values: Mapping[str, Any], metrics: Metrics) -> None:
        """Record that a trial continues from another trial's checkpoint, with its metrics and other settings."""
        trial = self._trials()[number]
        self._storage.set_trial_user_attr(trial._trial_id, "changes", [*self.changes(number), dict(values)])
        self._store(trial, metrics)

    def changes(self, number: int) -> list[dict[str, Any]]:
        """Return the settings with which a trial continued, in order, without those that it started with."""
        return list(self._trials()[number].user_attrs.get("changes", []))

    def complete(self, number: int, metrics: Metrics) -> None:
        """Finish a trial that ran to its end; a metric that is not a number makes it fail."""
        self._finish(number, TrialState.COMPLETE, metrics)

    def prune(self, number: int, metrics: Metrics) -> None:
        """Finish a trial that was stopped early; an accuracy that is not a number makes it fail."""
        self._finish(number, TrialState.PRUNED, metrics)

    def fail(self, number: int, reason: str) -> None:
        """Finish a trial that cannot continue, with the reason in one line."""
        self._finish(number, TrialState.FAIL, {}, reason=reason)

    def records(self) -> list[Record]:
        """Return every trial, by number."""
        return [self._record(trial) for trial in self._trials()]

    def record(self, number: int) -> Record:
        """Return one trial."""
        return self._record(self._trials()[number])

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _copy(self, sampler: BaseSampler, trials: Sequence[FrozenTrial]) -> optuna.Study:
        """Copy trials into a study in memory, with the study's name, on which Hyperband's brackets depend."""
        study = new_study(self.space, sampler, self._study.study_name)
        study.add_trials(trials)
        return study

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {key: decode(self.space.narrowed[key], value) for key, value in params.items()}

    def _settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return a trial's current settings."""
        return next(reversed(self.changes(trial.number)), None) or self._values(trial.params)

    def _record(self, trial: FrozenTrial) -> Record:
        state, values = STATES.get(trial.state.name, "unfinished"), self._settings(trial)
        metrics = dict(trial.user_attrs.get("metrics", {}))
        step = int(metrics.pop("step", 0))
        reports = tuple(sorted(trial.intermediate_values.items()))
        return Record(trial.number, state, values, metrics, step, reports, trial.user_attrs.get("error", ""))

    def _fixed_point(self, number: int) -> dict[str, Any] | None:
        """Return the point of a grid or of the preset's trial; None where the point is drawn."""
        if self.space.search.algorithm == "grid":
            return self._grid[number] if number < len(self._grid) else None
        return self.space.preset_values() if number == 0 and self.space.search.first != "none" else None

    def _draw(self, number: int, point: Mapping[str, Any] | None) -> optuna.Trial:
        """Draw a trial in a copy of the study, so that refused draws never reach the file."""
        seed = generator(self.space.seed, "trial", number).initial_seed() % 2**32
        tpe, startup = self.space.search.algorithm == "tpe", self.space.search.startup
        sampler = TPESampler(n_startup_trials=startup, seed=seed) if tpe else RandomSampler(seed=seed)
        copied = self._copy(sampler, self._trials() if tpe else [])  # a random draw depends on no other trial
        if point is not None:
            copied.enqueue_trial({key: _encode(self.space.narrowed[key], value) for key, value in point.items()})
        earlier = [trial.params for trial in self._trials()]
        refused: Counter[str] = Counter()
        for attempt in range(DRAWS):
            if attempt == GUIDED:
                copied.sampler = RandomSampler(seed=seed ^ 1)
            trial = copied.ask()
            rule = self.space.violated(self.space.draw(partial(_suggest, trial)))
            if rule is None and (point is not None or attempt >= FRESH or trial.params not in earlier):
                return trial
            refused.update([rule] if rule is not None else [])
            copied.tell(trial, state=TrialState.FAIL)
        rule, count = refused.most_common(1)[0]
        raise ValueError(f"constraint {rule!r} failed in {count} of {DRAWS} draws; widen its domains")

    def _prunes(self, number: int, index: int, accuracy: float) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the pruner stops a trial at a report, and the rungs that the trial has reached."""
        if len(self.space.directions) > 1 or index >= self.space.reports(self._values(self._trials()[number].params)):
            return False, {}  # no single metric decides; after the last report there is nothing to save
        if isinstance(self._pruner, NopPruner):
            return False, {}
        copied = self._copy(RandomSampler(seed=0), self._trials())
        trial = copied.get_trials()[number]
        trial.intermediate_values[index] = accuracy
        protected = number == 0 and self.space.first_is_protected  # all others are compared with the preset's trial
        return self._pruner.prune(copied, trial) and not protected, copied.get_trials(deepcopy=False)[
            number
        ].system_attrs

    def _store(self, trial: FrozenTrial, metrics: Metrics) -> None:
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        known = trial.user_attrs.get("metrics", {})
        if finite.items() - known.items():
            self._storage.set_trial_user_attr(trial._trial_id, "metrics", {**known, **finite})

    def _finish(self, number: int, state: TrialState, metrics: Metrics, reason: str = "") -> None:
        trial = self._trials()[number]
        if trial.state.is_finished():
            return
        self._store(trial, metrics)
        wrong = [name for name in self.space.directions if not math.isfinite(metrics.get(name, 0.0))]
        if wrong:
            state, reason = TrialState.FAIL, f"{wrong[0]} is {metrics[wrong[0]]}"
        if state is TrialState.FAIL:
            self._storage.set_trial_user_attr(trial._trial_id, "error", " ".join(reason.split()))
        values = [float(metrics[name]) for name in self.space.directions] if state is TrialState.COMPLETE else None
        self._study.tell(number, values, state)


def _pruner(space: Space) -> BasePruner:
    """Return Optuna's pruner, which may stop a trial from report ``grace`` on."""
    plan = space.scheduler
    if plan.name == "asha":
        return SuccessiveHalvingPruner(min_resource=plan.grace, reduction_factor=plan.reduction)
    if plan.name == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=plan.grace)
    if plan.name == "hyperband":
        reports = max(plan.grace, space.reports({}))
        return HyperbandPruner(min_resource=plan.grace, max_resource=reports, reduction_factor=plan.reduction)
    return NopPruner()


def choice_names(domain: Domain) -> list[Any]:
    """Return a choice's values for Optuna: unchanged, or all as JSON where one is a list or a mapping."""
    values = domain.choice or ()
    if all(value is None or isinstance(value, bool | int | float | str) for value in values):
        return list(values)
    return [json.dumps(value, separators=(",", ":")) for value in values]


def _encode(domain: Domain, value: Any) -> Any:
    return value if domain.choice is None else choice_names(domain)[domain.choice.index(value)]


def decode(domain: Domain, param: Any) -> Any:
    """Return the value of a setting from Optuna's parameter."""
    return param if domain.choice is None else domain.choice[choice_names(domain).index(param)]


def _suggest(trial: optuna.Trial, key: str, domain: Domain) -> Any:
    if domain.choice is not None:
        return decode(domain, trial.suggest_categorical(key, choice_names(domain)))
    if not domain.whole:
        return trial.suggest_float(key, domain.low, domain.high, log=domain.log)
    return trial.suggest_int(key, int(domain.low), int(domain.high), step=domain.step, log=domain.log)
