"""Class-incremental learning and ablations on a page, from the documents that `raydd continual` and `ablate` write."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from markupsafe import Markup
from pydantic import Field, model_validator

from raydd.evaluation.significance import compare_scores
from raydd.figures.continual import draw_continual
from raydd.figures.score_tables import percent, spread
from raydd.io.document import Document, Finite, Fraction, read_document
from raydd.report.documents import Scores, document_file, file_of
from raydd.report.html import Column, Row, Section, chart, macros, table
from raydd.report.scores import accuracy, difference_table, number_cell, score_cell, score_charts, selection_words

CONTINUAL = ("continual.json", "continual")
ABLATION = ("ablation.json", "ablation")


class Memory(Document):
    """The accuracies of one memory, whose classes come in steps."""

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
    """The order of the classes in the run of a seed."""

    seed: int
    classes: tuple[int, ...]


class Continual(Document):
    """The document of `raydd continual`."""

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
    """The document of `raydd ablate`."""

    method: str


def is_continual(path: Path) -> bool:
    """Return whether it is a document of `raydd continual`, or a folder that holds it."""
    return file_of(path, *CONTINUAL) is not None


def continual_headline(path: Path) -> str:
    """Return the first memory's last accuracy in a line."""
    document = _continual(path)
    first = document.runs[0]
    text = f"{first.name}: {spread(first.mean[-1], _std(first, -1))} % on all {first.classes[-1]} classes"
    text += f" of {document.dataset} after {first.steps} steps"
    return f"{text} ({first.networks} runs, protocol {document.protocol})"


def continual_sections(path: Path) -> list[Section]:
    """Return a chart and a table a number of steps."""
    document = _continual(path)
    runs = [run.model_dump() | {"std": [_std(run, at) for at in range(len(run.std))]} for run in document.runs]
    figure = draw_continual(document.model_dump() | {"runs": runs})
    pairs = [("network", document.network), ("protocol", document.protocol)]
    pairs += selection_words(run.selection for run in document.runs)
    counts = sorted({run.steps for run in document.runs})
    tables = [_steps_table([run for run in document.runs if run.steps == steps], steps) for steps in counts]
    orders = [(f"seed {order.seed}", ", ".join(map(str, order.classes))) for order in document.orders]
    most = max(run.networks for run in document.runs)
    body = macros("continual").section(document, most, pairs, chart(figure), tables, orders)
    return [Section("continual", "Continual learning", body)]


def is_ablation(path: Path) -> bool:
    """Return whether it is a document of `raydd ablate`, or a folder that holds it."""
    return file_of(path, *ABLATION) is not None


def ablation_headline(path: Path) -> str:
    """Return the whole method's accuracy in a line."""
    document = _ablation(path)
    rows = [score for score in document.scores if score.requested] or list(document.scores)
    first, last = rows[0], rows[-1]
    ends = " to ".join(f"{row.name} {spread(row.mean, row.spread)} %" for row in (first, last))
    return f"{document.method} part by part on {last.dataset}: {ends} ({last.networks} networks a row)"


def ablation_sections(path: Path) -> list[Section]:
    """Return the rows of the ablation, the gain of each part, and which gains are more than chance."""
    document = _ablation(path)
    columns = [Column("row"), Column("trained on"), Column("network"), Column("mean ± std in %", numeric=True)]
    columns.append(Column("gain", numeric=True, note="over the row above, in points of %"))
    rows, before = list[Row](), dict[str, float]()
    for score in document.scores:
        gain = score.mean - before[score.network] if score.requested and score.network in before else None
        if score.requested:
            before[score.network] = score.mean
        cell = number_cell("" if gain is None else percent(gain, signed=True), gain)
        rows.append([score.name, score.source, score.network, score_cell(score), cell])
    scores = table(columns, rows, f"What each part of {document.method} brings, test accuracy in %")
    requested = {score.name for score in document.scores if score.requested} or None
    tests = compare_scores(document.scores, "welch", requested)
    values = scores, score_charts(document.scores), difference_table(tests) if tests else ""
    return [Section("ablation", "Ablation", macros("continual").ablation(document, document.scores[0], *values))]


def _continual(path: Path) -> Continual:
    return read_document(
        document_file(path, *CONTINUAL), Continual, "`raydd continual` with the same --out writes it anew"
    )


def _ablation(path: Path) -> Ablation:
    return read_document(document_file(path, *ABLATION), Ablation, "`raydd ablate` with the same --out writes it anew")


def _steps_table(runs: Sequence[Memory], steps: int) -> Markup:
    """Return a row a memory: accuracy after every step, and the mean over the steps."""
    columns = [Column("memory"), *(Column(f"{seen} classes", numeric=True) for seen in runs[0].classes)]
    columns.append(Column("mean over steps", numeric=True, note="the average incremental accuracy of iCaRL"))
    rows: list[Row] = []
    for run in runs:
        cells = [accuracy(mean, _std(run, place), run.networks) for place, mean in enumerate(run.mean)]
        each = [statistics.fmean(values) for values in zip(*run.values, strict=False)]  # of each run over its steps
        std = statistics.stdev(each) if len(each) > 1 else None
        rows.append([run.name, *cells, accuracy(statistics.fmean(run.mean), std, run.networks)])
    over = "mean ± std" if any(run.networks > 1 for run in runs) else "one run"
    return table(columns, rows, f"{steps} steps: test accuracy in % on the classes seen, {over} (number of runs)")


def _std(run: Memory, place: int) -> float | None:
    return run.std[place] if run.networks > 1 else None
