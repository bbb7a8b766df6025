"""How a search is made: what it goes by, how values are proposed, when trials are stopped, how long it goes on."""

from typing import Annotated, Any, Literal

from pydantic import Field

from raydd.config.components import Count, Positive
from raydd.config.parsing import Config

METRICS: dict[str, Literal["max", "min"]] = {"accuracy": "max", "seconds": "min"}
"""What a search may go by: accuracy on the validation split, and seconds of outer steps."""


class SearchSettings(Config):
    """How values are proposed.

    Attributes:
        algorithm: tpe (Optuna's tree-structured Parzen estimator, of one metric or several), random or grid.
        startup: Trials at random before tpe looks at results.
        first: The first trial: preset (the preset's own values), none, or values over the preset's. It is never
            stopped early: the best is held against it.
    """

    algorithm: Literal["tpe", "random", "grid"] = "tpe"
    startup: Count = 10
    first: Literal["preset", "none"] | dict[str, Any] = "preset"


class Scheduler(Config):
    """How trials are stopped early, by the accuracies they report.

    Attributes:
        name: none, asha (asynchronous successive halving), median, hyperband, or pbt (population
            based training: the worse take over the sets of the better, and their settings, changed).
        grace: Reports before which no trial is stopped.
        reduction: One trial in so many goes on past a rung.
    """

    name: Literal["none", "asha", "median", "hyperband", "pbt"] = "none"
    grace: Count = 1
    reduction: Annotated[int, Field(ge=2)] = 3


class Budget(Config):
    """How long a search goes on.

    Attributes:
        samples: Trials; None takes all points of a grid.
        reports: Scores on the validation split a trial.
        concurrent: Trials at once; None takes as many as the machines carry.
        seconds: After which trials are stopped where they stand, to be resumed; None is as long as it takes.
    """

    samples: Count | None = None
    reports: Count = 5
    concurrent: Count | None = None
    seconds: Positive | None = None
