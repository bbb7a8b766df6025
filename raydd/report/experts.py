"""A buffer of experts on a page: its manifest, and the curves of the experts. No snapshot of weights is read.

Shapes: `E` experts, `K` the last epoch, `T` kept snapshots, `L` parameter tensors. Accuracies are fractions in files,
per cent on the page.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import expert_path
from raydd.buffer.manifest import read_manifest
from raydd.buffer.mirror import MANIFEST
from raydd.config.parsing import flat
from raydd.figures.cells import Cell, Row, percent
from raydd.figures.curves import Curve, draw_curves
from raydd.figures.style import PAGE_WIDTH
from raydd.report.html import Section, chart, macros, table

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
    accuracy = macros("experts").ends(about["accuracy"]["last"], len(buffer.experts))
    return f"{words}, {buffer.epochs} epochs: {accuracy} on validation images"


def buffer_sections(path: Path) -> list[Section]:
    """Return the description of a buffer, its experts' curves and a table of the experts."""
    path = _home(path)
    buffer, about = ArrowBuffer(path), describe(path)
    accuracy, loss = buffer.accuracy.numpy(), buffer.train_loss.numpy()
    charts = [
        _chart(buffer, 100 * accuracy, "validation accuracy (%)", "Accuracy of the experts"),
        _chart(buffer, loss, "training loss", "Training loss of the experts"),
    ]
    dataset, tables = Path(buffer.spec.dataset).name, (_table(path, buffer, accuracy, loss), _steps(buffer))
    body = macros("experts").section(buffer, dataset, about, charts, *tables, flat(buffer.spec.recipe))
    return [Section("experts", "Experts", body)]


def _home(path: Path) -> Path:
    return path if (path / MANIFEST).is_file() else path / "buffer"


def _chart(buffer: ArrowBuffer, values: Array, y: str, title: str) -> Markup:
    """Return the mean over the experts (E, T) with its band, and each expert where they are few."""
    if np.isnan(values).all():
        return macros("experts").unmeasured(title)
    epochs, known = buffer.kept or range(buffer.epochs + 1), np.ma.masked_invalid(values)
    ends = (measure(axis=0).tolist() for measure in (known.mean, known.min, known.max))
    name = f"mean of {len(values)} experts, band: least to largest" if len(values) > 1 else "the expert"
    each = [Curve("", epochs, row.tolist(), style=0) for row in values] if 1 < len(values) <= FEW else []
    return chart(draw_curves([Curve(name, epochs, *ends), *each], "epoch", y, title, width=PAGE_WIDTH))


def _table(path: Path, buffer: ArrowBuffer, accuracy: Array, loss: Array) -> Markup:
    """Return a row an expert: its entry in the manifest, and the ends of its curves."""
    entries, rows = read_manifest(path)[1], list[Row]()
    for index, scores, losses in zip(buffer.experts, accuracy, loss, strict=True):
        entry = entries.get(index, {})
        size = entry.get("bytes", expert_path(path, index).stat().st_size)
        checksum = str(entry.get("checksum", "not in the manifest"))
        last, best = scores[-1], np.fmax.reduce(scores)
        rows.append(
            {
                "expert": Cell(str(index), index),
                "last accuracy in %": Cell("-" if math.isnan(last) else percent(last), float(last)),
                "best accuracy in %": Cell("-" if math.isnan(best) else percent(best), float(best)),
                "last training loss": Cell("-" if math.isnan(losses[-1]) else f"{losses[-1]:.4f}", float(losses[-1])),
                "snapshots": Cell(str(len(scores)), len(scores)),
                "MiB": Cell(f"{size / 2**20:,.2f}", size),
                "checksum": Cell(checksum[:12], checksum, checksum),
            }
        )
    return table(rows, "Experts of the buffer; accuracy on validation images in %")


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
    rows: list[Row] = []
    for place, slot in enumerate(buffer.layout):
        own = norms[:, :, place]
        ends = {f"epoch {epoch}": _length(own[:, epoch - 1].tolist()) for epoch in (1, last)}
        sums = {"whole way": _length(own.sum(axis=1).tolist())}
        rows.append({"tensor": slot.name, "parameters": Cell(f"{slot.numel:,}", slot.numel), **ends, **sums})
    title = "Steps of the experts, by layer"
    figure = draw_curves(curves, "epoch", "length of the step", title, log=True, width=PAGE_WIDTH)
    over = f", mean ± std (n - 1) over {count} experts" if count > 1 else ""
    notes = {"whole way": "the sum over all epochs"}
    steps = table(rows, f"Length of the step of an epoch{over}", notes)
    return macros("experts").steps(count, len(curves), len(rows), chart(figure), steps)


def _length(values: Sequence[float]) -> Cell:
    mean = statistics.fmean(values)
    return Cell(f"{mean:.3g} ± {statistics.stdev(values):.2g}" if len(values) > 1 else f"{mean:.3g}", mean)
