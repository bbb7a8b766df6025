"""A buffer of experts on a page: what its manifest says, and how the experts went. No snapshot of weights is read.

Shapes: `E` experts, `K` the last epoch, `T` kept snapshots, `L` parameter tensors. Accuracies are fractions in files,
per cent on the page.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import expert_path, open_expert
from raydd.buffer.manifest import read_manifest
from raydd.buffer.mirror import MANIFEST
from raydd.config.parsing import flat
from raydd.figures.score_tables import percent, spread
from raydd.report.charts import Curve, lines
from raydd.report.html import Cell, Column, Section, definitions, details, paragraph, table

FEW = 10  # experts whose own curves are drawn
LAYERS = 7  # curves of tensors, as many as there are colours

Array = NDArray[np.float64]


def is_buffer(path: Path) -> bool:
    """Whether it is a folder with a buffer's manifest."""
    return (path / MANIFEST).is_file()


def buffer_headline(path: Path) -> str:
    """What the experts are and how accurate, in a line."""
    buffer, about = ArrowBuffer(path), describe(path)
    words = f"{len(buffer.experts)} experts, {buffer.spec.network} on {Path(buffer.spec.dataset).name}"
    return (
        f"{words}, {buffer.epochs} epochs: {_ends(about['accuracy']['last'], len(buffer.experts))} on validation images"
    )


def buffer_sections(path: Path) -> list[Section]:
    """The buffer's words, its experts' curves and a table of the experts.

    Raises:
        ValueError: The buffer is damaged.
    """
    buffer, about = ArrowBuffer(path), describe(path)
    accuracy, loss = _columns(buffer)
    epochs = [float(epoch) for epoch in buffer.kept or range(buffer.epochs + 1)]
    told = (
        f"{len(buffer.experts)} networks trained on {Path(buffer.spec.dataset).name}, whose weights after every epoch"
    )
    told += (
        " are what trajectory matching matches. Curves are means over the experts, bands reach from the least to the"
    )
    told += " largest of them; accuracies are of validation images, in per cent."
    body = paragraph(told) + definitions(_words(buffer, about))
    body += _chart(epochs, 100 * accuracy, "validation accuracy (%)", "Accuracy of the experts")
    body += _chart(epochs, loss, "training loss", "Training loss of the experts")
    body += details("Each expert", _table(path, buffer, accuracy, loss))
    body += details("How far each epoch moves the weights, by layer", _steps(buffer))
    recipe = ((key, str(value)) for key, value in flat(buffer.spec.recipe).items())
    return [Section("experts", "Experts", body + details("Recipe of the experts", definitions(recipe)))]


def _columns(buffer: ArrowBuffer) -> tuple[Array, Array]:
    """Validation accuracy and training loss of every expert and snapshot, (E, T) each; NaN where not measured."""
    rows = len(buffer.kept) if buffer.kept else buffer.epochs + 1
    found: dict[str, list[Array]] = {"accuracy": [], "train_loss": []}
    for index in buffer.experts:
        remedy = f"see `raydd buffer verify {buffer.folder}`"
        opened = open_expert(expert_path(buffer.folder, index), index, buffer.spec, remedy)
        for name, values in found.items():
            values.append(opened.rows(name, 0, rows))
    return np.stack(found["accuracy"]), np.stack(found["train_loss"])


def _words(buffer: ArrowBuffer, about: dict[str, Any]) -> list[tuple[str, str]]:
    spec, count = buffer.spec, len(buffer.experts)
    kept = f", of which {', '.join(map(str, buffer.kept))} are kept (convexified)" if buffer.kept else ""
    stored = f"{about['bytes'] / 2**20:,.1f} MiB on disk, weights as {spec.storage}"
    if (worst := buffer.rounding) is not None:
        stored += f" (rounded by {worst['snapshot']:.2g} of a snapshot's length at most)"
    return [
        ("data set", f"{spec.dataset}, {spec.classes} classes, {spec.channels} x {spec.size} x {spec.size}"),
        ("preprocessing", str(about["preprocessing"])),
        ("network", f"{spec.network}, {buffer.parameters:,} parameters"),
        ("experts", f"{count}, of {buffer.epochs} epochs each{kept}"),
        ("first accuracy", _ends(about["accuracy"]["first"], count)),
        ("last accuracy", _ends(about["accuracy"]["last"], count)),
        ("seed", str(spec.seed)),
        ("size", stored),
        ("fingerprint of the data", spec.fingerprint),
    ]


def _ends(found: dict[str, float] | None, count: int) -> str:
    """Mean and standard deviation (n, as `raydd buffer info` has it) of an accuracy over the experts."""
    if found is None:
        return "accuracy not measured"
    over = f"{count} experts, std over n" if count > 1 else "1 expert"
    return f"{spread(found['mean'], found['std'] if count > 1 else None)} % ({over})"


def _chart(epochs: Sequence[float], values: Array, y: str, title: str) -> str:
    """The mean over the experts (E, T) with its band, and each expert where they are few."""
    if np.isnan(values).all():
        return paragraph(f"{title}: not measured.")
    columns = [column[~np.isnan(column)] for column in values.T]
    mean, low, high = (
        [float(measure(column)) if len(column) else None for column in columns] for measure in (np.mean, np.min, np.max)
    )
    name = f"mean of {len(values)} experts, band: least to largest" if len(values) > 1 else "the expert"
    several = 1 < len(values) <= FEW
    each = [Curve("", epochs, [_known(value) for value in row.tolist()]) for row in values] if several else []
    return lines([Curve(name, epochs, mean, low, high), *each], x="epoch", y=y, title=title)


def _table(path: Path, buffer: ArrowBuffer, accuracy: Array, loss: Array) -> str:
    """A row an expert: what the manifest's index says of it, and where its curves end."""
    entries = read_manifest(path)[1]
    columns = [Column("expert", numeric=True), Column("last accuracy in %", numeric=True)]
    columns += [Column("best accuracy in %", numeric=True), Column("last training loss", numeric=True)]
    columns += [Column("snapshots", numeric=True), Column("MiB", numeric=True), Column("checksum")]
    rows = []
    for index, scores, losses in zip(buffer.experts, accuracy, loss, strict=True):
        entry = entries.get(index, {})
        size = entry.get("bytes", expert_path(path, index).stat().st_size)
        checksum = str(entry.get("checksum", "not in the manifest"))
        best = None if np.isnan(scores).all() else float(np.nanmax(scores))
        cells = [Cell(percent(value), math.nan if value is None else value) for value in (_known(scores[-1]), best)]
        last = Cell("-" if math.isnan(losses[-1]) else f"{losses[-1]:.4f}", float(losses[-1]))
        shown = [Cell(str(len(scores)), len(scores)), Cell(f"{size / 2**20:,.2f}", size)]
        rows.append([Cell(str(index), index), *cells, last, *shown, Cell(checksum[:12], checksum, checksum)])
    return table(columns, rows, "Experts of the buffer; accuracy on validation images in %")


def _steps(buffer: ArrowBuffer) -> str:
    """How far each epoch moves the weights, mean over the experts: curves of the largest tensors, and a table."""
    norms = np.stack([buffer.norms(expert).numpy() for expert in buffer.experts])[:, 1:]  # (E, K, L)
    if not norms.shape[1]:
        return paragraph("There is no epoch yet.")
    epochs = [float(epoch) for epoch in range(1, norms.shape[1] + 1)]
    largest = sorted(range(len(buffer.layout)), key=lambda place: -buffer.layout[place].numel)[:LAYERS]
    curves = [
        Curve(buffer.layout[place].name, epochs, norms[:, :, place].mean(axis=0).tolist()) for place in sorted(largest)
    ]
    columns = [Column("tensor"), Column("parameters", numeric=True)]
    columns += [Column(f"epoch {epoch}", numeric=True) for epoch in dict.fromkeys((1, norms.shape[1]))]
    columns.append(Column("whole way", numeric=True, note="the sum over all epochs"))
    rows: list[list[Cell | str]] = []
    for place, slot in enumerate(buffer.layout):
        found = [norms[:, epoch, place] for epoch in dict.fromkeys((0, norms.shape[1] - 1))]
        lengths = [_length(values.tolist()) for values in (*found, norms[:, :, place].sum(axis=1))]
        rows.append([slot.name, Cell(f"{slot.numel:,}", slot.numel), *lengths])
    count = len(buffer.experts)
    told = f"The Euclidean length of what an epoch adds to a tensor; the mean over {count} experts"
    told += f"; curves of the {len(curves)} tensors with the most parameters." if len(rows) > len(curves) else "."
    shown = lines(curves, x="epoch", y="length of the step", title="Steps of the experts, by layer", log_y=True)
    over = f", mean ± std (n - 1) over {count} experts" if count > 1 else ""
    return paragraph(told) + shown + table(columns, rows, f"Length of the step that an epoch makes{over}")


def _length(values: Sequence[float]) -> Cell:
    mean = statistics.fmean(values)
    return Cell(f"{mean:.3g} ± {statistics.stdev(values):.2g}" if len(values) > 1 else f"{mean:.3g}", mean)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
