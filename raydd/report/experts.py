"""A buffer of experts on a page: its manifest, and the curves of the experts. No snapshot of weights is read.

Shapes: `E` experts, `K` the last epoch, `T` kept snapshots, `L` parameter tensors. Accuracies are fractions in files,
per cent on the page.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import expert_path, open_expert
from raydd.buffer.manifest import read_manifest
from raydd.buffer.mirror import MANIFEST
from raydd.config.parsing import flat
from raydd.figures.curves import Curve, draw_curves
from raydd.figures.score_tables import percent, spread
from raydd.figures.style import PAGE_WIDTH
from raydd.report.html import Cell, Column, Row, Section, chart, macros, table
from raydd.report.scores import number_cell

FEW = 10  # experts whose own curves are drawn
LAYERS = 7  # curves of tensors, as many as there are colours

Array = NDArray[np.float64]


def is_buffer(path: Path) -> bool:
    """Return whether it is a buffer's folder, or has one named ``buffer``."""
    return (_home(path) / MANIFEST).is_file()


def buffer_headline(path: Path) -> str:
    """Return the experts and their accuracy in a line."""
    path = _home(path)
    buffer, about = ArrowBuffer(path), describe(path)
    words = f"{len(buffer.experts)} experts, {buffer.spec.network} on {Path(buffer.spec.dataset).name}"
    accuracy = _ends(about["accuracy"]["last"], len(buffer.experts))
    return f"{words}, {buffer.epochs} epochs: {accuracy} on validation images"


def buffer_sections(path: Path) -> list[Section]:
    """Return the description of a buffer, its experts' curves and a table of the experts."""
    path = _home(path)
    buffer, about = ArrowBuffer(path), describe(path)
    accuracy, loss = _columns(buffer)
    epochs = buffer.kept or range(buffer.epochs + 1)
    charts = [_chart(epochs, 100 * accuracy, "validation accuracy (%)", "Accuracy of the experts")]
    charts.append(_chart(epochs, loss, "training loss", "Training loss of the experts"))
    recipe = [(key, str(value)) for key, value in flat(buffer.spec.recipe).items()]
    tables = _table(path, buffer, accuracy, loss), _steps(buffer)
    dataset = Path(buffer.spec.dataset).name
    body = macros("experts").section(buffer, dataset, _words(buffer, about), charts, *tables, recipe)
    return [Section("experts", "Experts", body)]


def _home(path: Path) -> Path:
    return path if (path / MANIFEST).is_file() else path / "buffer"


def _columns(buffer: ArrowBuffer) -> tuple[Array, Array]:
    """Return accuracy and loss of every expert and snapshot, (E, T) each; NaN where not measured."""
    rows = len(buffer.kept) if buffer.kept else buffer.epochs + 1
    columns: dict[str, list[Array]] = {"accuracy": [], "train_loss": []}
    for index in buffer.experts:
        remedy = f"see `raydd buffer verify {buffer.folder}`"
        file = open_expert(expert_path(buffer.folder, index), index, buffer.spec, remedy)
        for name, values in columns.items():
            values.append(file.rows(name, 0, rows))
    return np.stack(columns["accuracy"]), np.stack(columns["train_loss"])


def _words(buffer: ArrowBuffer, about: dict[str, Any]) -> list[tuple[str, str]]:
    spec, count = buffer.spec, len(buffer.experts)
    selected = f", of which {', '.join(map(str, buffer.kept))} are kept (convexified)" if buffer.kept else ""
    stored = f"{about['bytes'] / 2**20:,.1f} MiB on disk, weights as {spec.storage}"
    if (worst := buffer.rounding) is not None:
        stored += f" (rounded by {worst['snapshot']:.2g} of a snapshot's length at most)"
    return [
        ("data set", f"{spec.dataset}, {spec.classes} classes, {spec.channels} x {spec.size} x {spec.size}"),
        ("preprocessing", str(about["preprocessing"])),
        ("network", f"{spec.network}, {buffer.parameters:,} parameters"),
        ("experts", f"{count}, of {buffer.epochs} epochs each{selected}"),
        ("first accuracy", _ends(about["accuracy"]["first"], count)),
        ("last accuracy", _ends(about["accuracy"]["last"], count)),
        ("seed", str(spec.seed)),
        ("size", stored),
        ("fingerprint of the data", spec.fingerprint),
    ]


def _ends(accuracy: dict[str, float] | None, count: int) -> str:
    """Return the mean and standard deviation (n, as in `raydd buffer info`) of an accuracy over the experts."""
    if accuracy is None:
        return "accuracy not measured"
    over = f"{count} experts, std over n" if count > 1 else "1 expert"
    return f"{spread(accuracy['mean'], accuracy['std'] if count > 1 else None)} % ({over})"


def _chart(epochs: Sequence[float], values: Array, y: str, title: str) -> Markup:
    """Return the mean over the experts (E, T) with its band, and each expert where they are few."""
    if np.isnan(values).all():
        return macros("experts").unmeasured(title)
    columns = [column[~np.isnan(column)] for column in values.T]
    mean, low, high = (
        [float(measure(column)) if len(column) else None for column in columns] for measure in (np.mean, np.min, np.max)
    )
    name = f"mean of {len(values)} experts, band: least to largest" if len(values) > 1 else "the expert"
    each = [Curve("", epochs, row.tolist(), style=0) for row in values] if 1 < len(values) <= FEW else []
    curves = [Curve(name, epochs, mean, low, high), *each]
    return chart(draw_curves(curves, "epoch", y, title, width=PAGE_WIDTH))


def _table(path: Path, buffer: ArrowBuffer, accuracy: Array, loss: Array) -> Markup:
    """Return a row an expert: its entry in the manifest, and the ends of its curves."""
    entries = read_manifest(path)[1]
    columns = [Column("expert", numeric=True), Column("last accuracy in %", numeric=True)]
    columns += [Column("best accuracy in %", numeric=True), Column("last training loss", numeric=True)]
    columns += [Column("snapshots", numeric=True), Column("MiB", numeric=True), Column("checksum")]
    rows: list[Row] = []
    for index, scores, losses in zip(buffer.experts, accuracy, loss, strict=True):
        entry = entries.get(index, {})
        size = entry.get("bytes", expert_path(path, index).stat().st_size)
        checksum = str(entry.get("checksum", "not in the manifest"))
        best = None if np.isnan(scores).all() else float(np.nanmax(scores))
        ends = None if math.isnan(scores[-1]) else float(scores[-1]), best
        cells = [Cell(str(index), index), *(number_cell(percent(value), value) for value in ends)]
        cells.append(Cell("-" if math.isnan(losses[-1]) else f"{losses[-1]:.4f}", float(losses[-1])))
        cells += [Cell(str(len(scores)), len(scores)), Cell(f"{size / 2**20:,.2f}", size)]
        rows.append([*cells, Cell(checksum[:12], checksum, checksum)])
    return table(columns, rows, "Experts of the buffer; accuracy on validation images in %")


def _steps(buffer: ArrowBuffer) -> Markup:
    """Return the length of each epoch's step, mean over the experts: curves of the largest tensors, and a table."""
    norms = np.stack([buffer.norms(expert).numpy() for expert in buffer.experts])[:, 1:]  # (E, K, L)
    count, last = len(buffer.experts), norms.shape[1]
    if not last:
        return macros("experts").no_epoch()
    largest = sorted(range(len(buffer.layout)), key=lambda place: -buffer.layout[place].numel)[:LAYERS]
    curves = [
        Curve(buffer.layout[place].name, range(1, last + 1), norms[:, :, place].mean(axis=0).tolist())
        for place in sorted(largest)
    ]
    columns = [Column("tensor"), Column("parameters", numeric=True)]
    columns += [Column(f"epoch {epoch}", numeric=True) for epoch in dict.fromkeys((1, last))]
    columns.append(Column("whole way", numeric=True, note="the sum over all epochs"))
    rows: list[Row] = []
    for place, slot in enumerate(buffer.layout):
        ends = [norms[:, epoch - 1, place] for epoch in dict.fromkeys((1, last))]
        lengths = [_length(values.tolist()) for values in (*ends, norms[:, :, place].sum(axis=1))]
        rows.append([slot.name, Cell(f"{slot.numel:,}", slot.numel), *lengths])
    title = "Steps of the experts, by layer"
    figure = draw_curves(curves, "epoch", "length of the step", title, log=True, width=PAGE_WIDTH)
    over = f", mean ± std (n - 1) over {count} experts" if count > 1 else ""
    steps = table(columns, rows, f"Length of the step of an epoch{over}")
    return macros("experts").steps(count, len(curves), len(rows), chart(figure), steps)


def _length(values: Sequence[float]) -> Cell:
    mean = statistics.fmean(values)
    return Cell(f"{mean:.3g} ± {statistics.stdev(values):.2g}" if len(values) > 1 else f"{mean:.3g}", mean)
