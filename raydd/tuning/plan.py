"""The plan of a search: metrics, search algorithm, scheduler and budget."""

from typing import Annotated, Any, Literal

from pydantic import Field

from raydd.config.components import Count, Positive
from raydd.config.parsing import Config

METRICS: dict[str, Literal["max", "min"]] = {"accuracy": "max", "seconds": "min"}
"""The metrics of a search: accuracy on the validation split, and seconds of outer steps."""


class SearchSettings(Config):
    """How values are proposed.

    Attributes:
        algorithm: ``tpe`` (Optuna's tree-structured Parzen estimator, for one or several metrics), ``random`` or
            ``grid``.
        startup: Random trials before ``tpe`` uses results.
        first: The first trial: ``preset`` (the preset's values), ``none``, or values that override the preset's. It is
            never stopped early, because the best trial is compared with it.
    """

    algorithm: Literal["tpe", "random", "grid"] = "tpe"
    startup: Count = 10
    first: Literal["preset", "none"] | dict[str, Any] = "preset"


class Scheduler(Config):
    """How trials are stopped early, by the accuracies that they report.

    Attributes:
        name: ``none``, ``asha`` (asynchronous successive halving), ``median``, ``hyperband``, or ``pbt`` (population
            based training: the worst trials continue from checkpoints of the best, with perturbed settings).
        grace: No trial is stopped before this report.
        reduction: One trial in this number continues past a rung.
    """

    name: Literal["none", "asha", "median", "hyperband", "pbt"] = "none"
    grace: Count = 1
    reduction: Annotated[int, Field(ge=2)] = 3


class Budget(Config):
    """Number and length of the trials.

    Attributes:
        samples: Trials; None takes all points of a grid.
        reports: Scores on the validation split per trial.
        concurrent: Trials at once; None takes as many as fit.
        seconds: Time after which trials are stopped where they are, to be resumed; None sets no limit.
    """

    samples: Count | None = None
    reports: Count = 5
    concurrent: Count | None = None
    seconds: Positive | None = None
