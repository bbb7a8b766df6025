"""Several runs side by side: their settings where they differ, their curves, their scores and whether those differ.

Shapes: none; accuracies are fractions in files, per cent on the page.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydd.config.parsing import flat
from raydd.config.schema import DistillConfig
from raydd.evaluation.significance import compare_scores
from raydd.report.charts import Bar, Curve, bars
from raydd.report.distillation import draw_progress, progress_charts, title_of
from raydd.report.documents import Score
from raydd.report.folder import RunFolder, is_distilled, reading
from raydd.report.frames import compact, read_sheet
from raydd.report.html import Cell, Column, Section, paragraph, picture, table
from raydd.report.scores import BEST, LEVEL, difference_table, is_scored, read_scores, score_cell

UNTOLD = {"preset", "threads"}  # settings that do not tell runs apart


def names_of(paths: Sequence[Path]) -> list[str]:
    """What runs are called: of each path as many last parts as tell it from the others.

    >>> names_of([Path("runs/a/s0"), Path("runs/b/s0"), Path("far/dm")])
    ['a/s0', 'b/s0', 'dm']
    """
    parts = [path.absolute().parts for path in paths]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        lengths = (length for length in range(1, len(own)) if all(own[-length:] != each[-length:] for each in others))
        names.append(str(Path(*own[-next(lengths, len(own)) :])))
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]


def compare_section(paths: Sequence[Path], names: Sequence[str]) -> Section:
    """What runs have in common to be compared by.

    Args:
        paths: Their folders.
        names: What they are called, each differently.

    Raises:
        ValueError: A file is damaged.
    """
    runs = {name: RunFolder(path) for name, path in zip(names, paths, strict=True) if is_distilled(path)}
    scores = {name: _rows(path, name) for name, path in zip(names, paths, strict=True) if is_scored(path)}
    own = [row for rows in scores.values() for row in rows if row.requested]
    body = _scores([*own, *_baselines(scores)], runs) if own else ""
    if chosen := [name for name, found in scores.items() if not any(row.requested for row in found)]:
        body += paragraph(f"Left out here, as their only scores are of sets chosen on test: {', '.join(chosen)}.")
    if runs:
        body += _curves(runs) + _pictures(runs) + _settings(runs)
    if not body:
        body = paragraph("These are of different kinds: there is nothing to lay on each other. Each follows by itself.")
    return Section("compare", "Side by side", body)


def _rows(path: Path, name: str) -> list[Score]:
    """The rows of a folder that a comparison takes: its own sets, called after it, and the baselines as they are."""
    rows = [row for row in read_scores(path).scores if row.in_table and row.selection != "paper"]
    own = [row for row in rows if row.requested] or [row for row in rows if row.kind == "distilled"]
    several, titles = len({row.name for row in own}) > 1, {row.name for row in own}
    called = {title: f"{name}: {title}" if several else name for title in titles}
    return [
        row.model_copy(update={"name": called.get(row.name, row.name), "requested": row.name in titles})
        for row in rows
        if row.name in titles or row.kind != "distilled"
    ]


def _baselines(scores: Mapping[str, Sequence[Score]]) -> list[Score]:
    """What stands beside the sets, each once; of the same name and other accuracies it is called after its run too."""
    found: dict[tuple[str, ...], list[tuple[str, Score]]] = {}
    for run, rows in scores.items():
        for row in rows:
            places = found.setdefault((row.name, row.dataset, row.network, row.protocol), [])
            if not row.requested and row.values not in [other.values for _, other in places]:
                places.append((run, row))
    return [
        row if len(places) == 1 else row.model_copy(update={"name": f"{row.name} (beside {run})"})
        for places in found.values()
        for run, row in places
    ]


def _scores(rows: Sequence[Score], runs: Mapping[str, RunFolder]) -> str:
    networks = list(dict.fromkeys(row.network for row in rows))
    columns = [
        Column("run"),
        Column("outer step"),
        Column("data set"),
        Column("images a class", numeric=True),
        Column("protocol"),
    ]
    columns += [Column(network, numeric=True) for network in networks] + [Column("selection")]
    grouped: dict[tuple[str, ...], dict[str, Score]] = {}
    for row in rows:
        grouped.setdefault((row.name, row.dataset, row.protocol, row.selection), {})[row.network] = row
    cells: list[list[Cell | str]] = []
    for (name, dataset, protocol, selection), found in grouped.items():
        ipc = next(iter(found.values())).ipc
        size = Cell("all") if ipc is None else Cell(f"{ipc:g}", ipc)
        scored = [score_cell(found[each]) if each in found else Cell("-") for each in networks]
        cells.append([name, _step(runs.get(name)), dataset, size, protocol, *scored, selection])
    told = paragraph("Test accuracy in per cent, mean ± standard deviation over fresh networks, and how many they are.")
    shown = table(columns, cells, "Test accuracy of the runs in %, mean ± std (number of networks)")
    each = {network: [row for row in rows if row.network == network] for network in networks}
    alike = len({(row.dataset, row.protocol) for row in rows}) == 1
    charts = "".join(_bars(network, found) for network, found in each.items() if len(found) > 1 and alike)
    return told + shown + charts + _tests(rows)


def _step(run: RunFolder | None) -> Cell | str:
    """The outer step that a run's result is of."""
    if run is None or run.result_step is None:
        return "-"
    return Cell(f"{run.result_step} of {run.setting('steps', '?')}", run.result_step, run.result_words)


def _bars(network: str, rows: Sequence[Score]) -> str:
    found = []
    for row in rows:
        ends = [None if row.spread is None else 100 * (row.mean + sign * row.spread) for sign in (-1, 1)]
        found.append(Bar(row.name, 100 * row.mean, ends[0], ends[1]))
    return bars(found, x="test accuracy (%), error bars: std", title=f"Test accuracy, {network}")


def _tests(rows: Sequence[Score]) -> str:
    """Welch's test of each pair of runs that were scored alike, and of the runs with the baselines."""
    found = compare_scores(rows, "welch", {row.name for row in rows if row.requested})
    if not found:
        return paragraph("No two of these were scored on the same data, network and protocol: nothing is tested.")
    tests = found
    told = "Whether the runs differ by more than chance: Welch's test of the accuracies of their fresh networks, p "
    told += f"adjusted by Holm, significant below {LEVEL}. A run's own seed is not in the spread. {BEST}"
    return paragraph(told) + difference_table(tests)


def _settings(runs: Mapping[str, RunFolder]) -> str:
    """A row a setting in which the runs differ, a column a run."""
    usual = flat(DistillConfig())  # what a run of an earlier version had without saying it
    found = {name: usual | flat(run.settings) for name, run in runs.items()}
    keys = [key for key in dict.fromkeys(key for values in found.values() for key in values) if key not in UNTOLD]
    shown = {key: [_word(values.get(key)) for values in found.values()] for key in keys}
    rows = [[key, *values] for key, values in shown.items() if len(set(values)) > 1]
    if not rows:
        return paragraph("All settings of these runs are the same.") if len(runs) > 1 else ""
    columns = [Column("setting"), *(Column(name) for name in runs)]
    return table(columns, rows, "Settings in which the runs differ")


def _word(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def _curves(runs: Mapping[str, RunFolder]) -> str:
    """Loss, step size and validation accuracy of all; runs that differ in their seed alone as one with a band."""
    groups: dict[str, dict[str, RunFolder]] = {}
    for name, run in runs.items():
        alike = {key: value for key, value in flat(run.settings).items() if key not in UNTOLD | {"seed"}}
        members = groups.setdefault(json.dumps(alike, sort_keys=True) if alike else name, {})
        if run.setting("seed") in [other.setting("seed") for other in members.values()]:
            groups[name] = {name: run}  # the same run once more is no other seed
        else:
            members[name] = run
    curves: dict[str, list[Curve]] = {}
    banded = []
    for members in groups.values():
        first = next(iter(members.values()))
        called = next(iter(members)) if len(members) == 1 else f"{title_of(first)}: mean of {len(members)} seeds"
        banded += [called] if len(members) > 1 else []
        each = [progress_charts(called, run) for run in members.values()]
        for what in dict.fromkeys(key for found in each for key in found):
            curves.setdefault(what, []).append(_joined(called, [found[what][0] for found in each if what in found]))
    told = "By outer step."
    if banded:
        told += (
            " Runs that differ in their seed alone are one curve: their mean, and a band of their standard deviation."
        )
    return (paragraph(told) + draw_progress(curves, "loss")) if curves else ""


def _joined(name: str, curves: Sequence[Curve]) -> Curve:
    """The mean of curves at the steps that all of them have, with their standard deviation (n - 1) as a band."""
    if len(curves) == 1:
        return curves[0]
    values = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    steps = [step for step in curves[0].x if all(step in found for found in values)]
    mean: list[float | None] = []
    low: list[float | None] = []
    high: list[float | None] = []
    for step in steps:
        there = [value for found in values if (value := reading(found[step])) is not None]
        whole = len(there) == len(values)
        middle, std = (statistics.fmean(there), statistics.stdev(there)) if whole else (None, None)
        mean.append(middle)
        low.append(None if middle is None or std is None else middle - std)
        high.append(None if middle is None or std is None else middle + std)
    return Curve(name, steps, mean, low, high)


def _pictures(runs: Mapping[str, RunFolder]) -> str:
    """The last images of each run."""
    found = []
    for name, run in runs.items():
        if (sheet := read_sheet(run)) is not None:
            stop = sheet.stops[-1]
            alt = f"synthetic images of {name}: {len(sheet.classes)} classes, {sheet.columns} images a class"
            found.append(picture(compact(sheet), alt, f"{name}: {stop.words}", pixelated=True))
    return f'<div class="beside">{"".join(found)}</div>' if found else ""
