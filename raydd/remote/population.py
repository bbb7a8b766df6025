"""Population based training by Ray Tune: the worst trials go on from checkpoints of the best, with changed settings."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining

from raydd.distillation.checkpoint import load_checkpoint
from raydd.remote.demand import Demand
from raydd.remote.trials import Strategy, TrialEvents, number_of, send_reports
from raydd.tuning.checkpoint_transfer import discard_inherited, export_checkpoint, inherit_checkpoint
from raydd.tuning.trial import Report, SearchContext, run_trial, trial_folder
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


def member(config: Mapping[str, Any], context: SearchContext, demand: Demand) -> None:
    """Run one trial of a population in a worker."""
    number, values, checkpoint = int(config["trial"]), config["values"], tune.get_checkpoint()
    send_reports(lambda here: _reports(here, number, values, checkpoint), context, demand)


def _reports(
    context: SearchContext, number: int, values: Mapping[str, Any], checkpoint: tune.Checkpoint | None
) -> Iterator[tuple[Report, tune.Checkpoint | None]]:
    """Yield the report that a trial goes on from and each new one, with a checkpoint while there are steps left."""
    folder, steps = trial_folder(context.folder, number), context.space.config(values).steps
    inherited = inherit_checkpoint(folder, Path(checkpoint.path) if checkpoint else None)
    before = len(load_checkpoint(inherited / "state.arrow").log["history"]) if inherited else 0
    for report in run_trial(context, number, values, inherited):
        discard_inherited(folder)
        if report.index < before:
            continue
        if report.step >= steps:
            yield report, None
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


def remove_checkpoints(folder: Path) -> None:
    """Remove Tune's checkpoints of a search: no trial of a later call goes on from them."""
    for path in (folder / "trials").glob("*/checkpoint_*"):
        shutil.rmtree(path)
