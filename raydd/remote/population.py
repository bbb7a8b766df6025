"""Population based training by Ray Tune: the worst trials go on from checkpoints of the best, with changed settings."""

import math
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

    Tune decides which trial goes on from which, and transfers the checkpoint; its explore function draws the new
    settings by `raydd.tuning.population` and records them in the study. A trial whose accuracy is NaN takes no part in
    a decision. That is how

    - the preset's trial never takes over another's checkpoint, because the best trial is compared with it: it takes
      part while it is in the better half;
    - no trial takes over the same checkpoint again and again while the other one waits for its turn.
    """

    def __init__(self, trials: TrialScheduler, context: SearchContext) -> None:
        plan = context.space.scheduler
        super().__init__(
            trials,
            time_attr="index",
            metric="accuracy",
            mode="max",
            perturbation_interval=1,
            quantile_fraction=min(0.5, 1 / plan.reduction),
            custom_explore_fn=self._explore,
            log_config=False,
        )
        self._space, self._steps, self._grace = context.space, context.space.config({}).steps, plan.grace
        self._reports = dict[Trial, list[Mapping[str, Any]]]()  # the reports about which Tune has decided
        self._sources = dict[Trial, tuple[Trial, int]]()  # of a trial's last take-over, and the other's reports then
        self._taker: Trial | None = None

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record a report and let Tune decide, except at the last report, after which no step is left."""
        if self.stops(trial, result):
            return str(self.STOP)
        if int(result["index"]) == 0 or int(result["index"]) % self._grace or result["step"] >= self._steps:
            return str(self.CONTINUE)
        report = result if self._takes_part(trial, result) else result | {"accuracy": math.nan}
        self._reports.setdefault(trial, []).append(report)
        self._taker = trial
        return str(super().on_trial_result(controller, trial, report))

    def _takes_part(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        source, count = self._sources.get(trial, (None, 0))
        if source is not None and len(self._reports[source]) == count and not source.is_finished():
            return False
        if number_of(trial) or not self._space.first_is_protected:
            return True
        live = [
            reports[-1]["accuracy"]
            for each, reports in self._reports.items()
            if each is not trial and not each.is_finished()
        ]
        others = [accuracy for accuracy in live if not math.isnan(accuracy)]
        return sum(1 for accuracy in others if accuracy < result["accuracy"]) >= (len(others) + 1) // 2

    def _explore(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings with which the trial that has just reported goes on from the one of a configuration."""
        assert self._taker is not None
        source = next(trial for trial in self._reports if number_of(trial) == config["trial"])
        self._sources[self._taker] = source, len(self._reports[source])
        taker = number_of(self._taker)
        return {"trial": taker, "values": self._trials.take_over(taker, config["trial"], self._reports[source][-1])}


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
