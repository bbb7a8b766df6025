"""The study of a search: which values come next, which trials stop, and what is known, kept in Optuna's journal.

The journal is one file that outlives every process and that ``optuna-dashboard`` opens. Nothing else is remembered:
what is asked and what is stopped follows from the space and the file, so a resumed search goes on as it would have.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
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

DRAWS = 10_000  # of one point, the forbidden ones included, before the space is refused
GUIDED = 100  # draws of one point by the model; then at random, as a model can be sure of a forbidden corner
FRESH = 200  # draws of one point that avoid the points tried already; after them a repeat is taken

Metrics = Mapping[str, float]
STATES: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


class Ask(NamedTuple):
    """A trial to run: its place in the search, from 0, and its settings by dotted name."""

    number: int
    values: dict[str, Any]


class _TrialDocument(Document):
    """What a search notes of a trial beside its settings."""

    metrics: dict[str, float] = Field(default={})
    stop: Whole | None = None
    error: str = ""


class Search:
    """The trials of one space: asked, reported, finished. One process at a time writes.

    Args:
        space: What is searched, and how.
        file: The journal; made when missing. A line that a killed writer left half-written is dropped.

    Raises:
        ValueError: The file is no journal, or its search had other settings.
    """

    def __init__(self, space: Space, file: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self._storage = open_storage(file)
        self._study = self._opened(file)
        self._pruner = _pruner(space)
        self._grid = space.grid() if space.search.algorithm == "grid" else []
        self._earlier = len(self)

    def _opened(self, file: Path) -> optuna.Study:
        """The journal's study, all of whose trials can be read."""
        try:
            study = open_study(self.space, self._storage, file)
            for trial in study.get_trials(deepcopy=False):
                validate(_TrialDocument, trial.user_attrs)
                self._values(trial.params)
        except Exception as error:  # Optuna believes what is in it
            if isinstance(error, ValueError) and str(error).startswith(str(file.parent)):
                raise
            raise ValueError(f"{file} is no journal of a search, or is damaged; use another --out") from None
        return study

    def __len__(self) -> int:
        return len(self._trials())

    def ask(self) -> Ask | None:
        """The next trial, which is entered as running; None when all points of a grid were asked.

        Trial k's values depend on (seed, k) and on the trials before it, not on when or by whom it is asked; those of
        a random search or a grid not on results either.

        Raises:
            ValueError: No allowed point was found in `DRAWS`.
        """
        number = len(self)
        point = self._given(number)
        if point is None and self.space.search.algorithm == "grid":
            return None
        drawn = self._draw(number, point)
        # One line of the journal, so that a kill leaves a whole trial or none.
        running = TrialState.RUNNING
        self._study.add_trial(create_trial(state=running, params=drawn.params, distributions=drawn.distributions))
        return Ask(number, self._values(self._trials()[number].params))

    def unfinished(self) -> list[Ask]:
        """The trials that an earlier process left running, oldest first."""
        left = [trial for trial in self._trials()[: self._earlier] if not trial.state.is_finished()]
        return [Ask(trial.number, self._settings(trial)) for trial in left]

    def report(self, number: int, index: int, metrics: Metrics) -> bool:
        """Note what a trial has reached, and decide whether it shall stop.

        Args:
            number: The trial.
            index: Which of its reports this is, from 1. One that is known changes nothing and gets the same answer.
            metrics: ``accuracy`` in [0, 1], ``seconds``, ``step`` and others.

        Returns:
            True if it shall stop: the scheduler says so, never of several metrics or at the last report, or its
            accuracy is no number.
        """
        trial = self._trials()[number]
        stop_at = trial.user_attrs.get("stop", math.inf)
        if trial.state.is_finished() or index in trial.intermediate_values:
            return trial.state is TrialState.PRUNED or index >= stop_at
        accuracy = float(metrics["accuracy"])
        if not math.isfinite(accuracy):
            return len(self.space.directions) == 1
        hopeless, marks = self._judge(number, index, accuracy)
        # The decision first and the accuracy last: after a kill in between the report is decided again, and alike.
        if hopeless and index < stop_at:
            self._storage.set_trial_user_attr(trial._trial_id, "stop", index)
        for key in marks.keys() - trial.system_attrs.keys():
            self._storage.set_trial_system_attr(trial._trial_id, key, marks[key])
        self._note(trial, metrics)
        self._storage.set_trial_intermediate_value(trial._trial_id, index, accuracy)
        return hopeless or index >= stop_at

    def change(self, number: int, values: Mapping[str, Any], metrics: Metrics) -> None:
        """Note that a trial goes on with other settings, from another trial's set: population based training.

        Args:
            number: The trial.
            values: Its settings from now on, by dotted name.
            metrics: What the other trial's set has reached, and so this one.
        """
        trial = self._trials()[number]
        self._storage.set_trial_user_attr(trial._trial_id, "changes", [*self.changes(number), dict(values)])
        self._note(trial, metrics)

    def changes(self, number: int) -> list[dict[str, Any]]:
        """The settings that a trial went on with, one after the other, after those it began with."""
        return list(self._trials()[number].user_attrs.get("changes", []))

    def complete(self, number: int, metrics: Metrics) -> None:
        """Finish a trial that ran to its end; a metric that is no number makes it a failed one."""
        self._finish(number, TrialState.COMPLETE, metrics)

    def prune(self, number: int, metrics: Metrics) -> None:
        """Finish a trial that was stopped early; an accuracy that is no number makes it a failed one."""
        self._finish(number, TrialState.PRUNED, metrics)

    def fail(self, number: int, reason: str) -> None:
        """Finish a trial that cannot go on, with the reason in one line."""
        self._finish(number, TrialState.FAIL, {}, reason=reason)

    def records(self) -> list[Record]:
        """Every trial, by number."""
        return [self._record(trial) for trial in self._trials()]

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _copy(self, sampler: BaseSampler) -> optuna.Study:
        """The study in memory, under its own name, which Hyperband's brackets depend on."""
        study = new_study(self.space, sampler, self._study.study_name)
        study.add_trials(self._trials())
        return study

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {key: _decode(self.space.narrowed[key], value) for key, value in params.items()}

    def _settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """What a trial runs with now."""
        return next(reversed(self.changes(trial.number)), None) or self._values(trial.params)

    def _record(self, trial: FrozenTrial) -> Record:
        state, values = STATES.get(trial.state.name, "unfinished"), self._settings(trial)
        metrics = dict(trial.user_attrs.get("metrics", {}))
        step = int(metrics.pop("step", 0))
        reports = tuple(sorted(trial.intermediate_values.items()))
        return Record(trial.number, state, values, metrics, step, reports, trial.user_attrs.get("error", ""))

    def _given(self, number: int) -> dict[str, Any] | None:
        """The point that is not drawn: a grid's, or the first trial's."""
        if self.space.search.algorithm == "grid":
            return self._grid[number] if number < len(self._grid) else None
        return self.space.preset_values() if number == 0 and self.space.search.first != "none" else None

    def _draw(self, number: int, point: Mapping[str, Any] | None) -> optuna.Trial:
        """A trial of a copy, so that refused draws never reach the file."""
        seed = generator(self.space.seed, "trial", number).initial_seed() % 2**32
        tpe, startup = self.space.search.algorithm == "tpe", self.space.search.startup
        copied = self._copy(TPESampler(n_startup_trials=startup, seed=seed) if tpe else RandomSampler(seed=seed))
        if point is not None:
            copied.enqueue_trial({key: _encode(self.space.narrowed[key], value) for key, value in point.items()})
        tried = [trial.params for trial in self._trials()]
        refused: Counter[str] = Counter()
        for attempt in range(DRAWS):
            if attempt == GUIDED:
                copied.sampler = RandomSampler(seed=seed ^ 1)
            trial = copied.ask()
            rule = self.space.violated(self.space.draw(partial(_suggest, trial)))
            if rule is None and (point is not None or attempt >= FRESH or trial.params not in tried):
                return trial
            refused.update([rule] if rule is not None else [])
            copied.tell(trial, state=TrialState.FAIL)
        rule, count = refused.most_common(1)[0]
        raise ValueError(f"constraint {rule!r} failed in {count} of {DRAWS} draws; widen its domains")

    def _judge(self, number: int, index: int, accuracy: float) -> tuple[bool, Mapping[str, Any]]:
        """Whether the scheduler stops a trial at a report, and the marks it then bears (the rungs it came to)."""
        if len(self.space.directions) > 1 or index >= self.space.reports(self._values(self._trials()[number].params)):
            return False, {}  # of several metrics none alone decides; and after the last report nothing is left to save
        copied = self._copy(RandomSampler(seed=0))
        trial = copied.get_trials()[number]
        trial.intermediate_values[index] = accuracy
        hopeless = self._pruner.prune(copied, trial)
        spared = number == 0 and self.space.spared  # the preset's trial is what all others are held against
        return hopeless and not spared, copied.get_trials(deepcopy=False)[number].system_attrs

    def _note(self, trial: FrozenTrial, metrics: Metrics) -> None:
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        known = trial.user_attrs.get("metrics", {})
        if finite.items() - known.items():
            self._storage.set_trial_user_attr(trial._trial_id, "metrics", {**known, **finite})

    def _finish(self, number: int, state: TrialState, metrics: Metrics, reason: str = "") -> None:
        trial = self._trials()[number]
        if trial.state.is_finished():
            return
        self._note(trial, metrics)
        wrong = [name for name in self.space.directions if not math.isfinite(metrics.get(name, 0.0))]
        if wrong:
            state, reason = TrialState.FAIL, f"{wrong[0]} is {metrics[wrong[0]]}"
        if state is TrialState.FAIL:
            self._storage.set_trial_user_attr(trial._trial_id, "error", " ".join(reason.split()))
        values = [float(metrics[name]) for name in self.space.directions] if state is TrialState.COMPLETE else None
        self._study.tell(number, values, state)


def _pruner(space: Space) -> BasePruner:
    """Optuna's pruner; each may stop a trial from report ``grace`` on."""
    plan = space.scheduler
    if plan.name == "asha":
        return SuccessiveHalvingPruner(min_resource=plan.grace, reduction_factor=plan.reduction)
    if plan.name == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=plan.grace)
    if plan.name == "hyperband":
        reports = max(plan.grace, space.reports({}))
        return HyperbandPruner(min_resource=plan.grace, max_resource=reports, reduction_factor=plan.reduction)
    return NopPruner()


def _names(domain: Domain) -> list[Any]:
    """A choice's values as Optuna takes them: as they are, or all as JSON where one is a list or a mapping."""
    values = domain.choice or ()
    if all(value is None or isinstance(value, bool | int | float | str) for value in values):
        return list(values)
    return [json.dumps(value, separators=(",", ":")) for value in values]


def _encode(domain: Domain, value: Any) -> Any:
    return value if domain.choice is None else _names(domain)[domain.choice.index(value)]


def _decode(domain: Domain, param: Any) -> Any:
    return param if domain.choice is None else domain.choice[_names(domain).index(param)]


def _suggest(trial: optuna.Trial, key: str, domain: Domain) -> Any:
    if domain.choice is not None:
        return _decode(domain, trial.suggest_categorical(key, _names(domain)))
    if not domain.whole:
        return trial.suggest_float(key, domain.low, domain.high, log=domain.log)
    return trial.suggest_int(key, int(domain.low), int(domain.high), step=domain.step, log=domain.log)
