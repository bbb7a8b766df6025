"""Several runs side by side: the settings in which they differ, their curves, their scores and the tests of these."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from raydd.config.parsing import flat
from raydd.config.schema import DistillConfig
from raydd.data.score_record import Score
from raydd.evaluation.significance import compare_scores
from raydd.figures.curves import Curve
from raydd.report.distillation import progress_charts, progress_curves, title_of
from raydd.report.folder import RunFolder, is_distilled
from raydd.report.frames import compact, read_images
from raydd.report.html import Cell, Column, Row, Section, macros, picture, table
from raydd.report.scores import LEVEL, difference_table, is_scored, read_scores, score_cell, score_charts

IGNORED = {"preset", "threads"}  # settings that do not tell runs apart


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return names of runs: of each path as many last parts as distinguish it from the others.

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
    """Return the comparison of runs, whose names differ."""
    runs = {name: RunFolder(path) for name, path in zip(names, paths, strict=True) if is_distilled(path)}
    scores = {name: _rows(path, name) for name, path in zip(names, paths, strict=True) if is_scored(path)}
    own = [row for rows in scores.values() for row in rows if row.requested]
    accuracies = _scores([*own, *_baselines(scores)], runs) if own else ""
    ignored = [name for name, rows in scores.items() if not any(row.requested for row in rows)]
    curves, banded = _curves(runs)
    values = accuracies, ignored, progress_charts(curves, "loss"), banded, _pictures(runs), _settings(runs)
    return Section("compare", "Side by side", macros("compare").section(*values))


def _rows(path: Path, name: str) -> list[Score]:
    """Return the rows of a folder that are compared: its own sets, named after it, and the baselines."""
    rows = [row for row in read_scores(path).scores if row.in_table and row.selection != "paper"]
    own = [row for row in rows if row.requested] or [row for row in rows if row.kind == "distilled"]
    several, titles = len({row.name for row in own}) > 1, {row.name for row in own}
    names = {title: f"{name}: {title}" if several else name for title in titles}
    return [
        row.model_copy(update={"name": names.get(row.name, row.name), "requested": row.name in titles})
        for row in rows
        if row.name in titles or row.kind != "distilled"
    ]


def _baselines(scores: Mapping[str, Sequence[Score]]) -> list[Score]:
    """Return the baselines, each once; those of one name and different accuracies are named after their runs too."""
    entries: dict[tuple[str, ...], list[tuple[str, Score]]] = {}
    for run, rows in scores.items():
        for row in rows:
            places = entries.setdefault((row.name, row.dataset, row.network, row.protocol), [])
            if not row.requested and row.values not in [other.values for _, other in places]:
                places.append((run, row))
    return [
        row if len(places) == 1 else row.model_copy(update={"name": f"{row.name} (beside {run})"})
        for places in entries.values()
        for run, row in places
    ]


def _scores(rows: Sequence[Score], runs: Mapping[str, RunFolder]) -> Markup:
    """Return the accuracies, and Welch's tests of those that were scored alike."""
    networks = list(dict.fromkeys(row.network for row in rows))
    columns = [Column("run"), Column("outer step"), Column("data set"), Column("images a class", numeric=True)]
    columns += [Column("protocol"), *(Column(network, numeric=True) for network in networks), Column("selection")]
    grouped: dict[tuple[str, ...], dict[str, Score]] = {}
    for row in rows:
        grouped.setdefault((row.name, row.dataset, row.protocol, row.selection), {})[row.network] = row
    cells: list[Row] = []
    for (name, dataset, protocol, selection), entries in grouped.items():
        ipc = next(iter(entries.values())).ipc
        size = Cell("all") if ipc is None else Cell(f"{ipc:g}", ipc)
        scored = [score_cell(entries[each]) if each in entries else Cell("-") for each in networks]
        cells.append([name, _step(runs.get(name)), dataset, size, protocol, *scored, selection])
    caption = "Test accuracy of the runs in %, mean ± std (number of networks)"
    alike = len({(row.dataset, row.protocol) for row in rows}) == 1
    several = [row for row in rows if sum(other.network == row.network for other in rows) > 1]
    tests = compare_scores(rows, "welch", {row.name for row in rows if row.requested})
    charts = score_charts(several) if alike else []
    differences = difference_table(tests) if tests else ""
    return macros("compare").accuracies(table(columns, cells, caption), charts, differences, LEVEL)


def _step(run: RunFolder | None) -> Cell | str:
    """Return the outer step of a run's result."""
    if run is None or run.result_step is None:
        return "-"
    return Cell(f"{run.result_step} of {run.setting('steps', '?')}", run.result_step, run.result_words)


def _settings(runs: Mapping[str, RunFolder]) -> str:
    """Return a table of the settings in which the runs differ, a column a run."""
    usual = flat(DistillConfig())  # the values of a run of an earlier version that lacks a setting
    values = {name: usual | flat(run.settings) for name, run in runs.items()}
    keys = [key for key in dict.fromkeys(key for each in values.values() for key in each) if key not in IGNORED]
    rows: list[Row] = [[key, *(_word(each.get(key)) for each in values.values())] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return macros("compare").same() if len(runs) > 1 else ""
    return table([Column("setting"), *map(Column, runs)], rows, "Settings in which the runs differ")


def _word(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def _curves(runs: Mapping[str, RunFolder]) -> tuple[dict[str, list[Curve]], bool]:
    """Return the curves of all runs, those that differ in their seed alone as one, and whether there are such."""
    groups: dict[str, dict[str, RunFolder]] = {}
    for name, run in runs.items():
        alike = {key: value for key, value in flat(run.settings).items() if key not in IGNORED | {"seed"}}
        members = groups.setdefault(json.dumps(alike, sort_keys=True) if alike else name, {})
        if run.setting("seed") in [other.setting("seed") for other in members.values()]:
            groups[name] = {name: run}  # the same run again is not another seed
        else:
            members[name] = run
    curves: dict[str, list[Curve]] = {}
    for members in groups.values():
        name, first = next(iter(members.items()))
        name = name if len(members) == 1 else f"{title_of(first)}: mean of {len(members)} seeds"
        each = [progress_curves(name, run) for run in members.values()]
        for key in dict.fromkeys(key for entries in each for key in entries):
            curves.setdefault(key, []).append(_mean([entries[key] for entries in each if key in entries]))
    return curves, any(len(members) > 1 for members in groups.values())


def _mean(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves at the steps that all of them have, with their standard deviation (n - 1) as a band."""
    if len(curves) == 1:
        return curves[0]
    values = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    middle, low, high = list[float | None](), list[float | None](), list[float | None]()
    steps = [step for step in curves[0].x if all(step in entries for entries in values)]
    for step in steps:
        known = [value for entries in values if (value := entries[step]) is not None]
        if len(known) < len(values):
            ends: tuple[float | None, ...] = (None, None, None)
        else:
            mean, std = statistics.fmean(known), statistics.stdev(known)
            ends = mean, mean - std, mean + std
        for column, end in zip((middle, low, high), ends, strict=True):
            column.append(end)
    return Curve(curves[0].name, steps, middle, low, high)


def _pictures(runs: Mapping[str, RunFolder]) -> list[Markup]:
    """Return the last images of each run."""
    pictures = []
    for name, run in runs.items():
        if (grid := read_images(run)) is not None:
            alt = f"synthetic images of {name}: {len(grid.classes)} classes, {grid.columns} images a class"
            pictures.append(picture(compact(grid), alt, f"{name}: {grid.stops[-1].words}", pixelated=True))
    return pictures
