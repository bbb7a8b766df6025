"""The trials of a search on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.table import Table
from rich.text import Text

from raydd.io.terminal_table import text_table

SHOWN = 16


class Trial(Protocol):
    """The part of a trial that the table has."""

    number: int
    values: Mapping[str, Any]
    steps: int
    step: int
    accuracy: float | None
    state: str


def trial_table(trials: Sequence[Trial]) -> Table:
    """Return trials as a table, those that run and the best first, at most `SHOWN`; accuracies in per cent."""
    ranked = sorted(trials, key=lambda trial: (trial.state != "running", -(trial.accuracy or 0.0), trial.number))
    rows = [
        (
            str(trial.number),
            trial.state,
            f"{trial.step}/{trial.steps}",
            "" if trial.accuracy is None else f"{100 * trial.accuracy:.1f}",
            settings_text(trial.values),
        )
        for trial in ranked[:SHOWN]
    ]
    columns = ("trial", "state", "step", "accuracy", "settings")
    table = text_table("trials, accuracy on validation images in %", columns, rows)
    if len(ranked) > SHOWN:
        table.caption = Text(f"and {len(ranked) - SHOWN} more")
    return table


def settings_text(values: Mapping[str, Any]) -> str:
    """Return settings in few words.

    >>> settings_text({"lr.images": 0.123456, "window.high": 5})
    'lr.images 0.123, window.high 5'
    """
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
