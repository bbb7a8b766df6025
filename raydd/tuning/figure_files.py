"""Write the figures of a search; importance and parallel coordinates are Optuna's."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydd.figures.search import draw_history, draw_pareto, shorten
from raydd.figures.style import save_figure
from raydd.figures.sweep import draw_values
from raydd.io.files import AnyPath
from raydd.tuning.importance import importance
from raydd.tuning.results import Record, accuracy_of, front, rows_of, scales, text_of
from raydd.tuning.space import Space

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

PARALLEL_AXES = 12
WIDTH, HEIGHT = 8.0, 4.8


def save_figures(records: Sequence[Record], space: Space, folder: AnyPath) -> dict[str, Path]:
    """Draw the results of a search so far as ``<figure>.png``.

    Args:
        records: All trials, in any state.
        space: The search space.
        folder: Where to write; it is created if needed.

    Returns:
        Paths by figure: history, values and parallel; importance where it can be computed; pareto with two metrics.
        Empty where no trial has an accuracy.
    """
    rows = rows_of(records)
    if all(row["accuracy"] is None for row in rows):
        return {}
    shares = importance(records, space)
    draw: dict[str, Callable[[], Figure]] = {"history": lambda: draw_history(rows, space.name)}
    if any(record.values for record in records):
        draw["values"] = lambda: draw_values(rows, scales(space), space.name)
        draw["parallel"] = lambda: _draw_parallel(records, space, shares)
    if shares:
        draw["importance"] = lambda: _draw_importance(records, space, shares)
    costs = [metric for metric in space.directions if metric != "accuracy"]
    if costs:
        best = [record.number for record in front(records, space.directions)]
        draw["pareto"] = lambda: draw_pareto(rows, best, costs[0], space.name)
    return {name: save_figure(make(), Path(folder) / f"{name}.png") for name, make in draw.items()}


def _draw_parallel(records: Sequence[Record], space: Space, shares: dict[str, float]) -> "Figure":
    """Draw a line per trial over the settings with the largest shares; one that was not searched has its own value."""
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    keys = sorted(space.domains, key=lambda key: -shares.get(key, 0.0))[:PARALLEL_AXES]
    title = f"{space.name}: accuracy by setting, one line per trial"
    return _draw(
        lambda: plot_parallel_coordinate(_study(records, space, keys), target_name="validation accuracy (%)"), title
    )


def _draw_importance(records: Sequence[Record], space: Space, shares: dict[str, float]) -> "Figure":
    from optuna.importance import BaseImportanceEvaluator
    from optuna.visualization.matplotlib import plot_param_importances

    class Known(BaseImportanceEvaluator):
        """The shares of `importance`, which also judge settings that only some trials have."""

        def evaluate(self, study: "optuna.Study", params: Any = None, *, target: Any = None) -> dict[str, float]:
            return dict(shares)

    title = f"{space.name}: share of each setting in the variance of the accuracy (fANOVA)"
    return _draw(
        lambda: plot_param_importances(
            _study(records, space, list(shares)), evaluator=Known(), target_name="validation accuracy"
        ),
        title,
    )


def _study(records: Sequence[Record], space: Space, keys: Sequence[str]) -> "optuna.Study":
    """Return the trials that have an accuracy as an Optuna study in memory, with the values of some settings."""
    import optuna

    scored = [(record, score) for record in records if (score := accuracy_of(record)) is not None]
    settings = [space.settings(record.values) for record, _ in scored]
    columns: dict[str, list[Any]] = {}
    kinds: dict[str, Any] = {}
    for key in keys:
        domain, values = space.domains[key], [each[key] for each in settings]
        if domain.choice is None and all(isinstance(value, int | float) for value in values):
            columns[key] = [float(value) for value in values]
            low, high = min(domain.low, *columns[key]), max(domain.high, *columns[key])
            kinds[key] = optuna.distributions.FloatDistribution(low, high, log=domain.log and low > 0)
        else:
            columns[key] = [shorten(text_of(value), 20) for value in values]
            kinds[key] = optuna.distributions.CategoricalDistribution(tuple(dict.fromkeys(columns[key])))
    study = optuna.create_study(direction="maximize")
    for index, (_, score) in enumerate(scored):
        params = {key: column[index] for key, column in columns.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=100 * score))
    return study


def _draw(plot: Callable[[], Any], title: str) -> "Figure":
    """Return the figure of an Optuna plot, without an effect on the state of pyplot."""
    import matplotlib.pyplot as plt
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with plt.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes = plot()
            axes.set_title("")  # Optuna's, in the centre
            axes.set_title(title, loc="left", fontsize="medium")
            figure: Figure = axes.figure
            figure.set_size_inches(WIDTH, HEIGHT)
            figure.set_layout_engine("tight")
    finally:
        optuna.logging.set_verbosity(level)
    plt.close(figure)
    return figure
