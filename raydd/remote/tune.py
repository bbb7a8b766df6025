"""The trials of a search, run by Ray Tune.

Tune starts, watches and restarts the trials; what is tried and who stops is decided by `raydd.tuning`, from the study's
file. So every call, a resumed one too, begins a fresh Tune run, and nothing of Tune's own is ever read back.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import TBXLoggerCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raydd.remote.population import population
from raydd.remote.session import Plan, plan, resources
from raydd.remote.trials import RESTARTS, Books, Shared, Way, number_of, send
from raydd.tuning.loggers import ask_for as _ask_for, ask_for_key as _ask_for_key
from raydd.tuning.trial import Task, run_trial
from raydd.tuning.trial_scheduler import Desk

DEFAULT_LOGGERS = "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"


class Limits(NamedTuple):
    """What a run of trials may take.

    Attributes:
        concurrent: Trials at once; None takes as many as the machines carry.
        seconds: After which trials are stopped where they stand; None is as long as it takes.
        gpus: GPUs a trial; None shares them evenly.
    """

    concurrent: int | None = None
    seconds: float | None = None
    gpus: float | None = None


class Loggers(NamedTuple):
    """Where results are sent too.

    Attributes:
        mlflow: A tracking address or folder of MLflow.
        wandb: A project of Weights & Biases.
    """

    mlflow: str | None = None
    wandb: str | None = None


class _Proposals(Shared, Searcher):  # type: ignore[misc]
    """Tune asks for trials; the desk hands them out."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(metric="accuracy", mode="max")
        self._desk = desk

    def suggest(self, trial_id: str) -> Any:
        ask = self._desk.next()
        return Searcher.FINISHED if ask is None else {"trial": ask.number, "values": ask.values}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The scheduler is told too, and keeps the books."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's file is the search's memory."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study's file is the search's memory."""


class _Decisions(Books, FIFOScheduler):  # type: ignore[misc]
    """Tune asks whether a trial goes on; the desk decides."""

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return str(TrialScheduler.STOP if self.told(trial, result) else TrialScheduler.CONTINUE)


class _Recoveries(Shared, tune.Callback):  # type: ignore[misc]
    """Tells of trials that are taken up again."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Its worker died; a new one goes on from its checkpoint."""
        self._desk.note(f"trial {number_of(trial)}: its worker died; a new one goes on from its checkpoint")


def trainable(config: Mapping[str, Any], task: Task) -> None:
    """One trial, in a worker."""
    send((report, None) for report in run_trial(task, int(config["trial"]), config["values"]))


def proposals(desk: Desk, task: Task) -> Way:
    """Trials are asked for one by one, and each ends by itself or is stopped."""
    return Way(task, trainable, _Decisions(desk), _Proposals(desk), {}, desk.left)


WAYS: dict[str, Callable[[Desk, Task], Way]] = {"pbt": population}
"""By scheduler, what differs from `proposals`."""


def run_trials(task: Task, desk: Desk, limits: Limits, loggers: Sequence[Any]) -> None:
    """Run what the desk has left, on the connected Ray, until all is done or the time is up.

    Args:
        task: What all trials share.
        desk: Hands out trials and keeps the books.
        limits: Trials at once, time, GPUs.
        loggers: Tune's callbacks that send results elsewhere too.

    Raises:
        RuntimeError: Tune itself failed; what was reported is kept.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told in a line, not by tracebacks
    way = WAYS.get(task.space.scheduler.name, proposals)(desk, task)
    layout = _layout(task, desk.left, limits, turns=way.searcher is None)
    share = {"cpu": float(layout.cpus)} | ({"gpu": layout.gpus} if layout.gpus else {})
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(way.trainable, task=way.task), share),
        param_space=way.params,
        tune_config=tune.TuneConfig(
            num_samples=way.samples,
            search_alg=way.searcher,
            scheduler=way.scheduler,
            max_concurrent_trials=layout.workers if way.searcher else None,  # else the shares alone set the limit
            time_budget_s=limits.seconds,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{number_of(trial):04d}",
            trial_name_creator=lambda trial: f"trial-{number_of(trial):04d}",
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(task.folder),
            verbose=0,
            callbacks=[_Recoveries(desk), TBXLoggerCallback(), *loggers],
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
        ),
    )
    try:
        with _only_our_loggers():
            tuner.fit()
    except tune.TuneError as error:
        raise RuntimeError(f"Ray Tune: {' '.join(str(error).split())[-300:]}") from error


@contextmanager
def _only_our_loggers() -> Iterator[None]:
    """Without Tune's own JSON and CSV files, which repeat what the study has, and which it leaves open."""
    before = os.environ.get(DEFAULT_LOGGERS)
    os.environ[DEFAULT_LOGGERS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[DEFAULT_LOGGERS]
        else:
            os.environ[DEFAULT_LOGGERS] = before


def _layout(task: Task, trials: int, limits: Limits, turns: bool) -> Plan:
    """Trials at once, and each one's share of CPUs and GPUs.

    Trials that take ``turns`` all begin, and only their shares limit how many run at once: then a share may be larger
    than what it uses, though never larger than a node.
    """
    cpus, gpus = resources()
    threads = task.space.config({}).threads or 1
    layout = plan(limits.concurrent, trials, cpus // threads, gpus if task.device == "cuda" else 0)
    each = layout.gpus if limits.gpus is None or task.device != "cuda" else limits.gpus
    if turns and layout.workers < min(cpus // threads, trials):
        threads = min(int(largest("CPU")), 1 + cpus // (layout.workers + 1))
    return layout._replace(cpus=threads, gpus=each)


def largest(kind: str) -> float:
    """The most of a resource that one node of the connected cluster has."""
    return max((float(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]), default=0.0)


def check_limits(task: Task, limits: Limits) -> None:
    """Refuse trials that no node can ever hold.

    Raises:
        ValueError: Naming the setting and what there is.
    """
    threads, cpus, gpus = task.space.config({}).threads or 1, largest("CPU"), largest("GPU")
    if threads > cpus:
        raise ValueError(f"a trial takes {threads} threads, and no machine has more than {cpus:g} CPUs; set less")
    if task.device == "cuda" and (limits.gpus or 0) > gpus:
        raise ValueError(f"--gpus-per-trial {limits.gpus:g}: no machine has more than {gpus:g}; use less")


def callbacks(loggers: Loggers, name: str) -> list[Any]:
    """Tune's own senders to MLflow and Weights & Biases.

    Raises:
        ValueError: The package is not installed, or Weights & Biases has no key.
    """
    found: list[Any] = []
    if loggers.mlflow is not None:
        _ask_for("mlflow")
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        # Settings at the end: a population's change on the way.
        place = _tracking(loggers.mlflow)
        found.append(MLflowLoggerCallback(place, experiment_name=f"raydd-{name}", log_params_on_trial_end=True))
    if loggers.wandb is not None:
        _ask_for("wandb")
        _ask_for_key()
        from ray.air.integrations.wandb import WandbLoggerCallback

        found.append(WandbLoggerCallback(project=loggers.wandb, group=name))
    return found


def _tracking(place: str) -> str:
    """An MLflow address; a folder's is that of a database in it, since MLflow keeps no plain files any more."""
    if "://" in place:
        return place
    Path(place).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{Path(place).absolute() / 'mlflow.db'}"
