"""Population based training by Ray Tune: the worse take over the sets of the better, and their settings, changed."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from raydd.remote.trials import Books, Way, number_of, send
from raydd.tuning.checkpoint_exchange import begin, clear, hand_over, keep, told
from raydd.tuning.trial import Report, Task, run_trial, trial_folder
from raydd.tuning.trial_scheduler import Desk

TOKEN = "kept"
"""The file of Tune's checkpoints: it names, below the trials' folder, where the set and all beside it are kept."""


class Population(Books, PopulationBasedTraining):  # type: ignore[misc]
    """Ray Tune's own decisions on who takes over whom, at every ``grace``-th report of a trial.

    What is taken over, and with what settings the trial goes on, is decided by `raydd.tuning`, so that a resumed
    search knows it too. The preset's own trial takes nothing over: the best is held against it.
    """

    def __init__(self, desk: Desk, task: Task) -> None:
        plan = task.space.scheduler
        super().__init__(
            desk,
            time_attr="index",
            metric="accuracy",
            mode="max",
            perturbation_interval=plan.grace,
            quantile_fraction=min(0.5, 1 / plan.reduction),
            custom_explore_fn=dict,  # asked for, but never called: see `_get_new_config`
            log_config=False,
        )
        self._task, self._steps = task, task.space.config({}).steps
        self._given: set[tuple[int, Path]] = set()
        self._turns: Counter[int] = Counter()

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Nothing is taken over at the last report: no step would be left."""
        if self.told(trial, result):
            return str(TrialScheduler.STOP)
        if "failed" in result or result["step"] >= self._steps:
            return str(TrialScheduler.CONTINUE)
        self._turns[number_of(trial)] = self._turns.total() + 1
        return str(super().on_trial_result(controller, trial, result))

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Nobody takes over from a trial that has ended."""
        super().on_trial_complete(controller, trial, result)
        clear(trial_folder(self._task.folder, number_of(trial)))

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        """Of the trials that came least far, the one whose last turn is longest ago.

        Tune's own choice goes by the first alone, and lets trials that fall back keep the others from their turns.
        """
        waiting = (trial for trial in controller.get_trials() if trial.status in (Trial.PENDING, Trial.PAUSED))
        return min(waiting, key=self._progress, default=None)

    def _progress(self, trial: Trial) -> tuple[int, int]:
        return self._trial_state[trial].last_train_time, self._turns[number_of(trial)]

    def _quantiles(self) -> tuple[list[Trial], list[Trial]]:
        lower, upper = super()._quantiles()
        return [trial for trial in lower if number_of(trial) or not self._task.space.spared], upper

    def _exploit(self, controller: Any, trial: Trial, trial_to_clone: Trial) -> None:
        """No trial takes the same set over twice, or a fast one would do nothing else while a slow one is ahead."""
        found = number_of(trial), self._kept(trial_to_clone)
        if found not in self._given:
            super()._exploit(controller, trial, trial_to_clone)
            self._given.add(found)

    def _kept(self, donor: Trial) -> Path:
        with self._trial_state[donor].last_checkpoint.as_directory() as token:
            return self._task.folder / "trials" / Path(token, TOKEN).read_text(encoding="utf-8")

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tune's hook for other ways to explore: what the trial goes on with."""
        number = number_of(trial)
        taken = self._desk.taken(number) + 1
        hand_over(self._kept(trial_to_clone), trial_folder(self._task.folder, number), taken)
        report = self._trial_state[trial_to_clone].last_result
        values = self._desk.take_over(number, number_of(trial_to_clone), report)
        return {"trial": number, "values": values, "taken": taken}, {}


def member(config: Mapping[str, Any], task: Task) -> None:
    """One trial of a population, in a worker."""
    send(_reports(config, task))


def _reports(config: Mapping[str, Any], task: Task) -> Iterator[tuple[Report, tune.Checkpoint | None]]:
    """A trial's reports, each new one with what others can take over.

    Of those that were told before a restart only the last is told again, and it alone: others belong to sets that are
    no more. The last of all is for nobody, as no step is left.
    """
    number, values, taken = int(config["trial"]), config["values"], int(config["taken"])
    folder, steps = trial_folder(task.folder, number), task.space.config(values).steps
    inherited = begin(folder, taken)
    before = told(folder, inherited)
    with tempfile.TemporaryDirectory() as token:
        for report in run_trial(task, number, values, inherited):
            if report.index > before and report.step < steps:
                kept = keep(folder, taken, report.index, most=task.space.scheduler.grace + 1)
                Path(token, TOKEN).write_text(kept.relative_to(folder.parent).as_posix(), encoding="utf-8")
                yield report, tune.Checkpoint.from_directory(token)
            elif report.index >= before:
                yield report, None


def population(desk: Desk, task: Task) -> Way:
    """All trials are begun, and take turns where there are too few workers for them.

    Each writes a checkpoint with every score, since others may go on from it.
    """
    config = task.space.config({})
    every = config.evaluate_every
    if every is not None and every % config.checkpoint_every:
        task = task._replace(space=task.space.with_settings({"checkpoint_every": every}))
    values = {ask.number: ask.values for ask in desk.rest()}
    taken = {number: desk.taken(number) for number in values}
    params = {
        "trial": tune.grid_search(list(values)),
        "values": tune.sample_from(lambda config: values[config["trial"]]),
        "taken": tune.sample_from(lambda config: taken[config["trial"]]),
    }
    return Way(task, member, Population(desk, task), None, params, 1)
