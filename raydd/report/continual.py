"""Class-incremental learning and ablations on a page, from the documents that `raydd continual` and `ablate` write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from raydd.data.score_record import Missing
from raydd.figures.cells import Cell, Row, number_cell, points, spread
from raydd.figures.continual import draw_continual, step_rows
from raydd.figures.score_tables import lacking, score_cell
from raydd.io.document import Document, Finite, Fraction
from raydd.report.documents import DocumentFile, Scores
from raydd.report.html import Section, chart, macros, table
from raydd.report.missing import missing_table
from raydd.report.scores import difference_table, score_charts, selection_words, welch_tests


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

    @property
    def deviations(self) -> tuple[float | None, ...]:
        """The standard deviations, which one run does not have."""
        return self.std if self.networks > 1 else (None,) * len(self.std)


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
    missing: tuple[Missing, ...] = ()

    @model_validator(mode="after")
    def _shared(self) -> Self:
        if len({(run.steps, run.classes) for run in self.runs}) > len({run.steps for run in self.runs}):
            raise ValueError("runs of one number of steps have not seen the same numbers of classes")
        return self


class Ablation(Scores):
    """The document of `raydd ablate`."""

    method: str


CONTINUAL = DocumentFile(
    "continual.json", "continual", Continual, "`raydd continual` with the same --out writes it anew"
)
ABLATION = DocumentFile("ablation.json", "ablation", Ablation, "`raydd ablate` with the same --out writes it anew")


def continual_headline(path: Path) -> str:
    """Return the first memory's last accuracy in a line."""
    document = CONTINUAL.read(path)
    first = document.runs[0]
    text = f"{first.name}: {spread(first.mean[-1], first.deviations[-1])} % on all {first.classes[-1]} classes"
    text += f" of {document.dataset} after {first.steps} steps"
    return f"{text} ({first.networks} runs, protocol {document.protocol})"


def continual_sections(path: Path) -> list[Section]:
    """Return a chart and a table a number of steps."""
    document = CONTINUAL.read(path)
    runs = [run.model_dump() | {"std": run.deviations} for run in document.runs]
    tree, most = document.model_dump() | {"runs": runs}, max(run.networks for run in document.runs)
    caption = f"test accuracy in % on the classes seen, {'mean ± std' if most > 1 else 'one run'} (number of runs)"
    notes = {"mean over steps": "the average incremental accuracy of iCaRL"}
    tables = []
    for steps, rows in step_rows(tree).items():
        whole = [{**row, **_lost(document.missing, str(row["memory"]))} for row in rows]
        tables.append(table(whole, f"{steps} steps: {caption}", notes))
    selections = selection_words(run.selection for run in document.runs)
    body = macros("continual").section(document, most, selections, chart(draw_continual(tree)), tables)
    body += missing_table(document.missing)
    return [Section("continual", "Continual learning", body)]


def ablation_headline(path: Path) -> str:
    """Return the whole method's accuracy in a line."""
    document = ABLATION.read(path)
    rows = [score for score in document.scores if score.requested] or list(document.scores)
    first, last = rows[0], rows[-1]
    ends = " to ".join(f"{row.name} {spread(row.mean, row.spread)} %" for row in (first, last))
    return f"{document.method} part by part on {last.dataset}: {ends} ({last.networks} networks a row)"


def ablation_sections(path: Path) -> list[Section]:
    """Return the rows of the ablation, the gain of each part, and which gains are more than chance."""
    document = ABLATION.read(path)
    rows, before = list[Row](), dict[str, float]()
    for score in document.scores:
        gain = score.mean - before[score.network] if score.requested and score.network in before else None
        if score.requested:
            before[score.network] = score.mean
        own = [one for one in document.missing if (one.name, one.network) == (score.name, score.network)]
        cells = {
            "mean ± std in %": lacking(score_cell(score), own),
            "gain": number_cell("" if gain is None else points(gain), gain),
        }
        rows.append({"row": score.name, "trained on": score.source, "network": score.network, **cells})
    notes = {"gain": "over the row above, in points of %"}
    scores = table(rows, f"What each part of {document.method} brings, test accuracy in %", notes)
    values = scores, score_charts(document.scores), difference_table(welch_tests(document.scores))
    body = macros("continual").ablation(document, document.scores[0], *values) + missing_table(document.missing)
    return [Section("ablation", "Ablation", body)]


def _lost(missing: Sequence[Missing], memory: str) -> dict[str, Cell]:
    """Return the cell of the trainings that a memory lacks; none where no memory lacks any."""
    own = [one for one in missing if memory in (one.name, f"{one.name}, {one.network}")]
    return {"missing": lacking(Cell(str(len(own)), len(own)), own)._replace(text=str(len(own)))} if missing else {}
