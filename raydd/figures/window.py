"""The search for the range of start epochs, as a figure."""

import io
from pathlib import Path
from typing import Any

from raydd.io.files import write_atomic


def save_window_figure(search: dict[str, Any], path: Path) -> Path:
    """Matching loss by start epoch before and after every trial, a panel a trial; the range is shaded.

    Args:
        search: ``trials`` (low, high, before, after), and the low, current and high found.
        path: The PNG.
    """
    from matplotlib.figure import Figure

    trials = search["trials"]
    figure = Figure(figsize=(4.5, 2.2 * len(trials)), layout="constrained")
    axes = figure.subplots(len(trials), sharex=True, squeeze=False)[:, 0]
    for axis, trial in zip(axes, trials, strict=True):
        axis.axvspan(trial["low"], trial["high"], color="0.9", label="range")
        axis.plot(trial["before"], color="#0072B2", label="before")
        axis.plot(trial["after"], color="#D55E00", label="after")
        axis.axhline(1, color="0.5", linestyle=":", linewidth=1)
        axis.set_ylabel("matching loss")
        axis.set_title(f"T- {trial['low']}, T+ {trial['high']}", fontsize="medium")
    axes[0].legend(fontsize="small")
    axes[-1].set_xlabel("start epoch on an expert that takes no part")
    figure.suptitle(f"window found: T- {search['low']}, T {search['current']}, T+ {search['high']}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return write_atomic(path, content.getvalue())
