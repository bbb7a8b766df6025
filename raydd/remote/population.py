"""Population based training by Ray Tune: the worst trials go on from checkpoints of the best, with changed settings."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining

from raydd.distillation.checkpoint import load_checkpoint
from raydd.remote.demand import Demand
from raydd.remote.trial_storage import SearchStorage, Sent, finished_last
from raydd.remote.trials import Strategy, TrialEvents, number_of, send_reports
from raydd.tuning.checkpoint_transfer import discard_inherited, export_checkpoint, inherit_checkpoint
from raydd.tuning.trial import SearchContext, run_trial, state_of, trial_folder
from raydd.tuning.trial_scheduler import TrialScheduler


class Population(TrialEvents, PopulationBasedTraining):  # type: ignore[misc]
    """Ray Tune's population based training, at every ``grace``-th report of a trial.

    Tune decides which trial goes on from which, and transfers the checkpoint. The new settings are drawn by
    `raydd.tuning.population` and recorded in the study. The preset's trial never takes over another's checkpoint,
    because the best trial is compared with it.
    """

    def __init__(self, trials: TrialScheduler, context: SearchContext) -> None:
        plan = context.space.scheduler
        super().__init__(
            trials,
            time_attr="index",
            metric="accuracy",
            mode="max",
            perturbation_interval=plan.grace,
            quantile_fraction=min(0.5, 1 / plan.reduction),
            custom_explore_fn=dict,  # required by Tune; `_get_new_config` replaces it
            log_config=False,
        )
        self._space, self._steps = context.space, context.space.config({}).steps
        self._transfers: set[tuple[int, str]] = set()

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record a report and let Tune decide, except at the last report, after which no step is left."""
        if self.stops(trial, result):
            return str(self.STOP)
        if int(result["index"]) == 0 or result["step"] >= self._steps:
            return str(self.CONTINUE)
        return str(super().on_trial_result(controller, trial, result))

    def _quantiles(self) -> tuple[list[Trial], list[Trial]]:
        lower, upper = super()._quantiles()
        return [trial for trial in lower if number_of(trial) or not self._space.first_is_protected], upper

    def _exploit(self, controller: Any, trial: Trial, trial_to_clone: Trial) -> None:
        """Take over each checkpoint once: a fast trial would otherwise repeat that of a slow one without end."""
        transfer = number_of(trial), self._trial_state[trial_to_clone].last_checkpoint.path
        if transfer not in self._transfers:
            self._transfers.add(transfer)
            super()._exploit(controller, trial, trial_to_clone)

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        report = self._trial_state[trial_to_clone].last_result
        values = self._trials.take_over(number_of(trial), number_of(trial_to_clone), report)
        return {"trial": number_of(trial), "values": values}, {}


def member(config: Mapping[str, Any], context: SearchContext, demand: Demand, storage: SearchStorage) -> None:
    """Run one trial of a population in a worker."""
    number, values, checkpoint = int(config["trial"]), config["values"], tune.get_checkpoint()
    send_reports(lambda here: _reports(here, storage, number, values, checkpoint), context, demand)


def _reports(
    context: SearchContext,
    storage: SearchStorage,
    number: int,
    values: Mapping[str, Any],
    checkpoint: tune.Checkpoint | None,
) -> Iterator[Sent]:
    """Yield the report that a trial goes on from and each new one, with a checkpoint."""
    here, in_folder = storage.here(context)
    folder = trial_folder(here.folder, number)
    if checkpoint is not None:
        with checkpoint.as_directory() as path:
            inherited = inherit_checkpoint(folder, Path(path))
    else:
        if not in_folder:
            storage.trial(number).restore(folder)
        inherited = inherit_checkpoint(folder, None)
    before = len(load_checkpoint(state_of(inherited)).log["history"]) if inherited else 0
    reports = run_trial(here, number, values, inherited)
    for report in finished_last(reports, context.space.config(values).steps):
        discard_inherited(folder)
        if report.index < before:
            continue
        with tempfile.TemporaryDirectory() as copy:
            export_checkpoint(folder, Path(copy))
            yield report, tune.Checkpoint.from_directory(copy)


def population(trials: TrialScheduler, context: SearchContext) -> Strategy:
    """Start all trials, which share the workers in turns; each writes a checkpoint with every score."""
    config = context.space.config({})
    every = config.evaluate_every
    if every is not None and every % config.checkpoint_every:
        context = context._replace(space=context.space.with_settings({"checkpoint_every": every}))
    values = {proposal.number: proposal.values for proposal in trials.remaining()}
    params = {
        "trial": tune.grid_search(list(values)),
        "values": tune.sample_from(lambda config: values[config["trial"]]),
    }
    return Strategy(context, member, Population(trials, context), None, params, 1)
