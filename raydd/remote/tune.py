"""Run the trials of a search by Ray Tune.

Tune starts, watches and restarts trials. `raydd.tuning` proposes and stops them, based on the study's journal. Every
call, also one that resumes a search, therefore starts a fresh Tune run, and reads the trials' checkpoints alone.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback, TBXLoggerCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from raydd.remote.buffer_copy import buffer_copy
from raydd.remote.buffer_store import RemoteBuffer
from raydd.remote.demand import Demand
from raydd.remote.local import environment
from raydd.remote.own_search import OURS, OwnObjects
from raydd.remote.population import population
from raydd.remote.rollouts import RolloutPool
from raydd.remote.trial_demand import Limits, WaitingNotes, trial_plan
from raydd.remote.trial_storage import SearchStorage, gather, independent_reports, prepare, search_storage
from raydd.remote.trials import RESTARTS, ByReference, Strategy, TrialEvents, UnusableNode, number_of, send_reports
from raydd.run.rollout_worker import concurrent_parts
from raydd.tuning.loggers import require_package, require_wandb_key
from raydd.tuning.trial import SearchContext
from raydd.tuning.trial_scheduler import TrialScheduler

NO_DEFAULT_LOGGERS = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
"""Tune's own JSON and CSV files repeat what the study has, and Tune leaves them open."""


class _TrialSearcher(ByReference, Searcher):  # type: ignore[misc]
    """A Tune searcher that returns the trials of our scheduler."""

    def __init__(self, trials: TrialScheduler) -> None:
        super().__init__(metric="accuracy", mode="max")
        self._trials = trials

    def suggest(self, trial_id: str) -> Any:
        proposal = self._trials.next()
        return Searcher.FINISHED if proposal is None else {"trial": proposal.number, "values": proposal.values}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: the Tune scheduler receives the same event."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the journal stores the search."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: the journal stores the search."""


class _EarlyStopping(TrialEvents, FIFOScheduler):  # type: ignore[misc]
    """A Tune scheduler that stops trials as our scheduler decides."""

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return str(self.STOP if self.stops(trial, result) else self.CONTINUE)


class _RecoveryNotes(ByReference, tune.Callback):  # type: ignore[misc]
    """Notes for the user about restarted trials."""

    def __init__(self, trials: TrialScheduler) -> None:
        self._trials = trials

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._trials.notify(f"trial {number_of(trial)}: its worker died; a new one continues from its checkpoint")


def trainable(config: Mapping[str, Any], context: SearchContext, demand: Demand, storage: SearchStorage) -> None:
    """Run one independent trial in a worker."""
    number, values, checkpoint = int(config["trial"]), config["values"], tune.get_checkpoint()
    with ExitStack() as stack:
        start = None
        if (helpers := min(storage.helpers, concurrent_parts(context.space.config(values)) - 1)) > 0:
            start = stack.enter_context(RolloutPool(helpers, demand, lambda line: None)).start
        send_reports(
            lambda here: independent_reports(here, storage, number, values, checkpoint, start), context, demand
        )


def independent(trials: TrialScheduler, context: SearchContext) -> Strategy:
    """Propose trials one by one; each runs to its end or is stopped."""
    return Strategy(context, trainable, _EarlyStopping(trials), _TrialSearcher(trials), {}, trials.left)


STRATEGIES: dict[str, Callable[[TrialScheduler, SearchContext], Strategy]] = {"pbt": population}
"""By scheduler name, the strategies other than `independent`."""


def run_trials(
    context: SearchContext,
    trials: TrialScheduler,
    limits: Limits,
    loggers: Sequence[Any],
    uri: str | None = None,
    own: OwnObjects = OURS,
) -> tune.ResultGrid:
    """Run the trials that are left on the connected Ray, until all have ended or the time is up.

    With a URI, `context.folder` is this node's copy of the search's files, and the runs of trials are at the URI alone.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are one line, not tracebacks
    strategy = own.applied(STRATEGIES.get(context.space.scheduler.name, independent)(trials, context), trials)
    if own != OURS:
        loggers = [*loggers, JsonLoggerCallback(), *own.callbacks]  # the grid's data frames are made of its files
    with search_storage(context.folder, uri, interim=own == OURS) as storage:
        if isinstance(context.buffer, Path):
            experts, note = buffer_copy(context.buffer)
            storage = storage._replace(experts=experts)
            trials.notify(note if isinstance(experts.buffer, RemoteBuffer) else "")
        tuner = _tuner(strategy, storage, trials, limits, loggers)
        prepare(storage, context.folder, [proposal.number for proposal in trials.study.unfinished()])
        try:
            with environment(NO_DEFAULT_LOGGERS):
                grid = tuner.fit()
        except tune.TuneError as error:
            raise RuntimeError(f"Ray Tune: {' '.join(str(error).split())[-300:]}") from error
        finally:
            gather(storage, context.folder, trials.rows)
    if strategy.scheduler.unusable:
        raise RuntimeError(strategy.scheduler.unusable)
    return grid


def _tuner(
    strategy: Strategy, storage: SearchStorage, trials: TrialScheduler, limits: Limits, loggers: Sequence[Any]
) -> tune.Tuner:
    space, turns = strategy.context.space, strategy.searcher is None
    device, note = strategy.context.device, trials.notify
    layout = trial_plan(space.config({}), device, limits, trials.left, note, turns=turns)
    storage = storage._replace(helpers=layout.helpers)
    parameters = {"context": strategy.context, "demand": layout.demand, "storage": storage}
    bundles = tune.PlacementGroupFactory(layout.bundles)
    waiting = WaitingNotes(note, strategy.scheduler, layout, limits.max_wait)
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(strategy.trainable, **parameters), bundles),
        param_space=strategy.params,
        tune_config=tune.TuneConfig(
            num_samples=strategy.samples,
            search_alg=strategy.searcher,
            scheduler=strategy.scheduler,
            max_concurrent_trials=None if turns else layout.workers,  # else the shares are the only limit
            time_budget_s=limits.seconds,
            reuse_actors=not layout.helpers,  # the helpers of a trial that is stopped end with its process
            trial_dirname_creator=lambda trial: f"{number_of(trial):04d}",
            trial_name_creator=lambda trial: f"trial-{number_of(trial):04d}",
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=storage.path,
            storage_filesystem=storage.system,
            verbose=0,
            stop=UnusableNode(strategy.scheduler),
            callbacks=[_RecoveryNotes(trials), waiting, TBXLoggerCallback(), *loggers],
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=None if turns else 1),  # others may take one over
        ),
    )


def logger_callbacks(mlflow: str | None, wandb: str | None, name: str) -> list[Any]:
    """Return Tune's callbacks for an MLflow address or folder, and for a Weights & Biases project."""
    callbacks: list[Any] = []
    if mlflow is not None:
        require_package("mlflow")
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = _tracking_uri(mlflow)
        # Settings are logged at the end: a population changes them during training.
        callbacks.append(MLflowLoggerCallback(uri, experiment_name=f"raydd-{name}", log_params_on_trial_end=True))
    if wandb is not None:
        require_package("wandb")
        require_wandb_key()
        from ray.air.integrations.wandb import WandbLoggerCallback

        callbacks.append(WandbLoggerCallback(project=wandb, group=name))
    return callbacks


def _tracking_uri(address: str) -> str:
    """Return an MLflow address; of a folder that of a database in it, because MLflow no longer writes plain files."""
    if "://" in address:
        return address
    Path(address).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{Path(address).absolute() / 'mlflow.db'}"
