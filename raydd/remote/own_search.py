"""Searches by the user's own Ray Tune objects; our journal still records every trial.

The user's scheduler and search algorithm get the trials that `raydd.remote.trials` describes: reports with
``accuracy`` (the best so far), ``now``, ``step``, ``loss`` and ``seconds``, numbered by ``training_iteration``.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler as TuneScheduler
from ray.tune.search import Searcher

from raydd.remote.trials import ByReference, Strategy, TrialEvents, number_of
from raydd.tuning.domains import Domain
from raydd.tuning.space import Space
from raydd.tuning.study import choice_names, decode
from raydd.tuning.trial_scheduler import TrialScheduler

REFUSED_IN_A_ROW = 100
"""Points that a search algorithm may suggest in a row against the space's constraints."""


class OwnObjects(NamedTuple):
    """The user's own Ray Tune objects; None is ours."""

    scheduler: Any = None
    search_alg: Any = None
    callbacks: Sequence[Any] = ()

    def applied(self, strategy: Strategy, trials: TrialScheduler) -> Strategy:
        """Return a strategy with the user's objects."""
        if self.scheduler is not None:
            strategy = strategy._replace(scheduler=OwnStopping(trials, self.scheduler))
        if self.search_alg is not None:
            strategy = strategy._replace(searcher=OwnSearcher(trials, self.search_alg))
        return strategy

    def check(self, space: Space) -> None:
        """Refuse objects of other types, and a space that decides the same itself.

        Raises:
            ValueError: An object does not fit.
        """
        for name, value, kind in (
            ("scheduler", self.scheduler, TuneScheduler),
            ("search_alg", self.search_alg, Searcher),
            *(("callbacks", callback, tune.Callback) for callback in self.callbacks),
        ):
            if value is not None and not isinstance(value, kind):
                wanted = f"{kind.__module__.removesuffix('.searcher')}.{kind.__name__}"
                raise ValueError(f"{name}={type(value).__name__}: give an object of {wanted}")
        if self.scheduler is not None and space.scheduler.name != "none":
            raise ValueError(f"scheduler=: the space has scheduler {space.scheduler.name}; set scheduler.name to none")
        if self.search_alg is not None and (space.search.algorithm == "grid" or space.scheduler.name == "pbt"):
            what = "grid" if space.search.algorithm == "grid" else "pbt"
            raise ValueError(f"search_alg=: the space proposes values by {what}; use search.algorithm: random")


OURS = OwnObjects()


def tune_domains(space: Space) -> dict[str, Any]:
    """Return the searched settings as Ray Tune's search space, by dotted name."""
    return {key: _tune_domain(domain) for key, domain in space.narrowed.items()}


def _tune_domain(domain: Domain) -> Any:
    if domain.choice is not None:
        return tune.choice(choice_names(domain))
    if not domain.whole:
        return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)
    low, high = int(domain.low), int(domain.high)
    if domain.step > 1:
        return tune.choice([*range(low, high + 1, domain.step)])
    return (tune.lograndint if domain.log else tune.randint)(low, high + 1)


class OwnSearcher(ByReference, Searcher):  # type: ignore[misc]
    """Trials whose values the user's search algorithm suggests; unfinished ones and the preset's come first."""

    def __init__(self, trials: TrialScheduler, own: Searcher) -> None:
        super().__init__(metric="accuracy", mode="max")
        self._trials, self._own, self._space = trials, own, trials.study.space
        self._suggested: dict[str, str] = {}  # the algorithm's name of a trial, by Tune's
        self._values: dict[str, dict[str, Any]] = {}
        own.set_search_properties("accuracy", "max", tune_domains(self._space))

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial; None where the search algorithm waits for results."""
        waits: list[bool] = []

        def ask() -> dict[str, Any] | None:
            point = self._ask(trial_id)
            waits.append(point is None)
            return point if isinstance(point, dict) else None

        proposal = self._trials.next(ask)
        if proposal is None:
            return None if any(waits) else Searcher.FINISHED
        self._values[trial_id] = proposal.values
        return {"trial": proposal.number, "values": proposal.values}

    def _ask(self, trial_id: str) -> Any:
        """Return values that the space allows, None, or that the algorithm is finished."""
        for attempt in range(REFUSED_IN_A_ROW):
            name = f"{trial_id}-{attempt}" if attempt else trial_id
            point = self._own.suggest(name)
            if not isinstance(point, dict):
                return point
            values = self._space.draw(lambda key, domain, point=point: _value(key, domain, point))  # type: ignore[misc]
            if self._space.violated(values) is None:
                self._suggested[trial_id] = name
                return values
            self._own.on_trial_complete(name, error=True)
        raise ValueError(f"search_alg=: {REFUSED_IN_A_ROW} points in a row violate the constraints of the space")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Send a report to the search algorithm."""
        if trial_id in self._suggested and int(result["index"]) > 0:
            self._own.on_trial_result(self._suggested[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Send a result to the search algorithm, also of a trial that it has not suggested."""
        failed = error or result is None or int(result["index"]) == 0
        if trial_id in self._suggested:
            self._own.on_trial_complete(self._suggested[trial_id], None if failed else result, failed)
        elif result is not None and not failed and trial_id in self._values:
            with suppress(Exception):  # only some algorithms learn from such trials
                self._own.add_evaluated_point(self._values[trial_id], result["accuracy"])

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the journal stores the search."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: the journal stores the search."""


def _value(key: str, domain: Domain, point: Mapping[str, Any]) -> Any:
    """Return a suggested value of a setting."""
    if key not in point:
        raise ValueError(f"search_alg=: it suggests no {key}; give it no space of its own, or one with {key}")
    value = point[key]
    if domain.choice is not None:
        return decode(domain, value) if value in choice_names(domain) else _outside(key, value)
    value = value.item() if hasattr(value, "item") else value  # NumPy's
    return value if domain.has(value) else _outside(key, value)


def _outside(key: str, value: Any) -> Any:
    raise ValueError(f"search_alg=: it suggests {key} = {value}, which is not in the space")


class OwnStopping(TrialEvents, FIFOScheduler):  # type: ignore[misc]
    """Trials that the user's scheduler stops and orders; ours only records them."""

    def __init__(self, trials: TrialScheduler, own: TuneScheduler) -> None:
        super().__init__(trials)
        self._own = own
        own.set_search_properties("accuracy", "max")  # without effect on an object that has its own

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Return True: the user's scheduler has them."""
        return True

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        """Forward a new trial."""
        self._own.on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record a report, and return what the user's scheduler decides."""
        if int(result["index"]) == 0:
            return str(self.CONTINUE)
        if self.stops(trial, result):  # an accuracy that is not a number
            self._own.on_trial_complete(controller, trial, result)
            return str(self.STOP)
        decision = str(self._own.on_trial_result(controller, trial, result))
        if decision == self.STOP:
            self._trials.stop(number_of(trial), result)
        return decision

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        """Record a dead worker, and forward it."""
        super().on_trial_error(controller, trial)
        self._own.on_trial_error(controller, trial)

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Record the end of a trial, and forward it."""
        super().on_trial_complete(controller, trial, result)
        self._own.on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Trial) -> None:
        """Forward a trial that is removed."""
        self._own.on_trial_remove(controller, trial)

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        """Return the trial that the user's scheduler chooses."""
        return self._own.choose_trial_to_run(controller)

    def debug_string(self) -> str:
        """Return the user's scheduler's own words."""
        return str(self._own.debug_string())
