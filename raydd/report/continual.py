"""Class-incremental learning and ablations on a page, from the documents that `raydd continual` and `ablate` write.

Shapes: none; accuracies are fractions in documents, per cent on the page.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from raydd.evaluation.significance import compare_scores
from raydd.figures.score_tables import percent, spread
from raydd.report.charts import Curve, lines
from raydd.report.documents import Document, Finite, Fraction, Scores, file_of, found_in, read_document
from raydd.report.html import Cell, Column, Section, definitions, details, paragraph, table
from raydd.report.scores import accuracy, difference_table, number_cell, score_bars, score_cell, selection_words

CONTINUAL = ("continual.json", "continual")
ABLATION = ("ablation.json", "ablation")


class Memory(Document):
    """A run: one memory, whose classes come in so many steps."""

    name: str
    kind: str
    selection: str
    steps: int
    classes: Annotated[tuple[int, ...], Field(min_length=1)]
    mean: tuple[Fraction, ...]
    std: tuple[Finite | None, ...]
    values: tuple[tuple[Fraction, ...], ...] = ()
    networks: int

    @model_validator(mode="after")
    def _even(self) -> Self:
        if not len(self.classes) == len(self.mean) == len(self.std):
            raise ValueError(f"{self.name} has not as many means and deviations as steps")
        return self


class Order(Document):
    """The classes as they came in the run of a seed."""

    seed: int
    classes: tuple[int, ...]


class Continual(Document):
    """What `raydd continual` writes."""

    dataset: str
    network: str
    protocol: str
    orders: tuple[Order, ...] = ()
    runs: Annotated[tuple[Memory, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _shared(self) -> Self:
        if len({(run.steps, run.classes) for run in self.runs}) > len({run.steps for run in self.runs}):
            raise ValueError("runs of one number of steps have not seen the same numbers of classes")
        return self


class Ablation(Scores):
    """What `raydd ablate` writes."""

    method: str


def is_continual(path: Path) -> bool:
    """Whether it is a document of `raydd continual`, or a folder that holds it."""
    return file_of(path, *CONTINUAL) is not None


def continual_headline(path: Path) -> str:
    """The first memory's last accuracy, in a line."""
    found = _continual(path)
    first = found.runs[0]
    shown = f"{first.name}: {spread(first.mean[-1], _std(first, -1))} % on all {first.classes[-1]} classes"
    return f"{shown} of {found.dataset} after {first.steps} steps ({first.networks} runs, protocol {found.protocol})"


def continual_sections(path: Path) -> list[Section]:
    """A chart and a table a number of steps.

    Raises:
        ValueError: The document is damaged.
    """
    found = _continual(path)
    runs = max(run.networks for run in found.runs)
    told = (
        f"Classes of {found.dataset} come in steps; after each, fresh networks are trained on the memory of all classes"
    )
    told += " seen and tested on these classes. Test accuracy in per cent, the mean"
    told += f" ± standard deviation (n - 1) over {runs} runs, each with a class order of its own." if runs > 1 else "."
    pairs = [("network", found.network), ("protocol", found.protocol)]
    pairs += selection_words(run.selection for run in found.runs)
    body = paragraph(told) + definitions(pairs)
    for steps in sorted({run.steps for run in found.runs}):
        some = [run for run in found.runs if run.steps == steps]
        body += _curves(some, steps) + _steps_table(some, steps)
    upper = (
        "A set that was distilled with all classes at once may know too much: for most methods the accuracy is an upper"
    )
    body += paragraph(f"{upper} estimate of what a learner would reach whose sets are distilled step by step.")
    orders = ((f"seed {order.seed}", ", ".join(map(str, order.classes))) for order in found.orders)
    body += details("The classes as they came", definitions(orders)) if found.orders else ""
    return [Section("continual", "Continual learning", body)]


def is_ablation(path: Path) -> bool:
    """Whether it is a document of `raydd ablate`, or a folder that holds it."""
    return file_of(path, *ABLATION) is not None


def ablation_headline(path: Path) -> str:
    """The whole method's accuracy, in a line."""
    found = _ablation(path)
    rows = [score for score in found.scores if score.requested] or list(found.scores)
    first, last = rows[0], rows[-1]
    ends = [f"{row.name} {spread(row.mean, row.spread)} %" for row in (first, last)]
    return f"{found.method} part by part on {last.dataset}: {' to '.join(ends)} ({last.networks} networks a row)"


def ablation_sections(path: Path) -> list[Section]:
    """The rows of the ablation, what each part adds, and which of it is more than chance.

    Raises:
        ValueError: The document is damaged.
    """
    found = _ablation(path)
    columns = [Column("row"), Column("trained on"), Column("network"), Column("mean ± std in %", numeric=True)]
    columns.append(Column("gain", numeric=True, note="over the row above, in points of %"))
    rows, before = list[list[Cell | str]](), dict[str, float]()
    for score in found.scores:
        gain = score.mean - before[score.network] if score.requested and score.network in before else None
        if score.requested:
            before[score.network] = score.mean
        rows.append([score.name, score.source, score.network, score_cell(score), _gain(gain)])
    first = found.scores[0]
    told = (
        f"The same run of {found.method} with its parts added one by one; every row is trained on by fresh networks of"
    )
    told += (
        f" protocol {first.protocol} and scored alike: test accuracy on {first.dataset} in per cent, mean ± standard"
    )
    told += " deviation (n - 1), and in brackets the number of networks. Gains are in points of per cent."
    body = paragraph(told) + table(columns, rows, f"What each part of {found.method} brings, test accuracy in %")
    body += score_bars(found.scores)
    asked = {score.name for score in found.scores if score.requested} or None
    tests = compare_scores(found.scores, "welch", asked)
    shown = difference_table(tests)
    body += details("Which differences are more than chance (Welch's test, Holm's adjustment)", shown) if tests else ""
    return [Section("ablation", "Ablation", body)]


def _continual(path: Path) -> Continual:
    return read_document(found_in(path, *CONTINUAL), Continual, "`raydd continual` with the same --out writes it anew")


def _ablation(path: Path) -> Ablation:
    return read_document(found_in(path, *ABLATION), Ablation, "`raydd ablate` with the same --out writes it anew")


def _curves(runs: Sequence[Memory], steps: int) -> str:
    curves = []
    for run in runs:
        ends = [[_end(run, place, sign) for place in range(len(run.mean))] for sign in (-1, 1)]
        known = all(value is not None for value in ends[0])
        low, high = ends if known else (None, None)
        curves.append(Curve(run.name, list(map(float, run.classes)), [100 * mean for mean in run.mean], low, high))
    return lines(curves, x="classes seen", y="test accuracy on the classes seen (%)", title=f"{steps} steps")


def _steps_table(runs: Sequence[Memory], steps: int) -> str:
    """A row a memory: accuracy after every step, and the mean over the steps."""
    columns = [Column("memory")]
    columns += [Column(f"{seen} classes", numeric=True) for seen in runs[0].classes]
    columns.append(Column("mean over steps", numeric=True, note="the average incremental accuracy of iCaRL"))
    rows: list[list[Cell | str]] = []
    for run in runs:
        cells = [accuracy(mean, _std(run, place), run.networks) for place, mean in enumerate(run.mean)]
        each = [statistics.fmean(values) for values in zip(*run.values, strict=False)]  # of each run over its steps
        std = statistics.stdev(each) if len(each) > 1 else None
        rows.append([run.name, *cells, accuracy(statistics.fmean(run.mean), std, run.networks)])
    over = "mean ± std" if any(run.networks > 1 for run in runs) else "one run"
    return table(columns, rows, f"{steps} steps: test accuracy in % on the classes seen, {over} (number of runs)")


def _std(run: Memory, place: int) -> float | None:
    return run.std[place] if run.networks > 1 else None


def _end(run: Memory, place: int, sign: int) -> float | None:
    std = _std(run, place)
    return None if std is None else 100 * (run.mean[place] + sign * std)


def _gain(gain: float | None) -> Cell:
    return number_cell("" if gain is None else percent(gain, signed=True), gain)
