"""Class-incremental learning: accuracy on the classes seen so far, step by step.

A document has ``dataset``, ``network``, ``protocol``, and ``runs``: dicts of ``name``, ``kind`` (``whole`` for all real
images of the classes seen), ``steps`` (how many), ``classes`` (how many were seen after each step), ``mean`` and
``std`` (accuracy on all of them after each step; std may hold None), ``values`` (after each step one a network; may be
empty), and ``networks`` (how many a step).

Reference: Ran et al. (TGDD), Fig. 7: a curve a memory, for 5 and for 10 steps.
"""

import statistics
from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich.table import Table

from raydd.figures.cells import Row, accuracy, rows_table
from raydd.figures.curves import band, draw_curve
from raydd.figures.search import shorten
from raydd.figures.style import label, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
LETTERS = 38  # of a line that is as wide as a panel
MOST_TICKS = 10


def draw_continual(document: Document) -> "Figure":
    """Draw the accuracy on all classes seen against their number, a panel a number of steps and a line a memory.

    The band is the standard deviation over networks; dashed is the training on all real images of the classes seen.
    """
    steps = sorted({run["steps"] for run in document["runs"]})
    styles = {name: at for at, name in enumerate(dict.fromkeys(run["name"] for run in document["runs"]))}
    figure = new_figure(max(7.5, 0.6 + 4.0 * len(steps)), 4.6 + 0.12 * len(styles))
    panels = figure.subplots(1, len(steps), sharey=True, squeeze=False).ravel()
    most = 26 if len(styles) == 3 else 40  # letters of a name: three stand in a line, others in pairs
    for axes, count in zip(panels, steps, strict=True):
        for run in document["runs"]:
            if run["steps"] == count:
                whole = run["kind"] == "whole"
                curve = band(shorten(run["name"], most), run["classes"], run["mean"], run["std"], 100, dashed=whole)
                draw_curve(axes, curve, styles[run["name"]])
        first = axes is panels[0]
        label(axes, "classes seen", "test accuracy on the classes seen (%)" if first else "", f"{count} steps")
        axes.tick_params(labelleft=True)
        seen = sorted({number for run in document["runs"] if run["steps"] == count for number in run["classes"]})
        axes.set_xticks(seen[:: -(-len(seen) // MOST_TICKS)])
    title = f"{document['dataset']}, {document['network']}, protocol {document['protocol']}: class-incremental learning"
    figure.suptitle(fill(title, int(1.4 * LETTERS * max(2, len(steps)))), x=0.01, ha="left", fontsize="medium")
    legend_below(figure)
    return figure


def step_rows(document: Document) -> dict[int, list[Row]]:
    """Return by number of steps a row a memory: accuracy after every step, and its mean over the steps.

    The mean over steps is the average incremental accuracy of Rebuffi et al., arXiv 1611.07725 (iCaRL); the first step,
    at which nothing could be forgotten, counts like every other.
    """
    rows: dict[int, list[Row]] = {}
    for run in sorted(document["runs"], key=lambda run: int(run["steps"])):
        ends, count = zip(run["classes"], run["mean"], run["std"], strict=True), run["networks"]
        cells = {f"{seen} classes": accuracy(mean, std, count) for seen, mean, std in ends}
        each = [statistics.fmean(values) for values in zip(*run["values"], strict=False)]  # of each run over its steps
        std = statistics.stdev(each) if len(each) > 1 else None
        average = accuracy(statistics.fmean(run["mean"]), std, count)
        rows.setdefault(run["steps"], []).append({"memory": run["name"], **cells, "mean over steps": average})
    return rows


def continual_tables(document: Document) -> list[Table]:
    """Return a table for a terminal a number of steps, with a column a memory."""
    head = f"{document['dataset']}, {document['network']}, protocol {document['protocol']}"
    words = "steps: test accuracy in % on the classes seen (number of runs)"
    return [rows_table(f"{head}, {steps} {words}", rows, upright=True) for steps, rows in step_rows(document).items()]
