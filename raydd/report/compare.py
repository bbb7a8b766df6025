"""Several runs side by side: the settings in which they differ, their curves, their scores and the tests of these."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from raydd.config.parsing import flat
from raydd.config.schema import DistillConfig
from raydd.data.score_record import Missing, Score
from raydd.figures.cells import Cell, Row
from raydd.figures.curves import Curve, band
from raydd.figures.score_tables import matrix_rows
from raydd.figures.style import numbers_of
from raydd.io.paths import short_names
from raydd.report.distillation import progress_charts, progress_curves, title_of
from raydd.report.documents import SCORES
from raydd.report.folder import RunFolder, is_distilled
from raydd.report.frames import compact, read_images
from raydd.report.html import Section, macros, picture, table
from raydd.report.scores import LEVEL, difference_table, score_charts, setting_text, welch_tests

IGNORED = {"preset", "threads"}  # settings that do not tell runs apart
SETTING = "setting"  # the first column of the table of settings, so no run's name


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a name of each run, which no other has."""
    names = [*short_names(paths), SETTING]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names[:-1], 1)]


def compare_section(paths: Sequence[Path], names: Sequence[str]) -> Section:
    """Return the comparison of runs, whose names differ."""
    runs = {name: RunFolder(path) for name, path in zip(names, paths, strict=True) if is_distilled(path)}
    scores = {name: _rows(path, name) for name, path in zip(names, paths, strict=True) if SCORES.find(path)}
    own = [row for rows in scores.values() for row in rows if row.requested]
    lost = [one for name, path in zip(names, paths, strict=True) if name in scores for one in _missing(path, name)]
    accuracies = _scores([*own, *_baselines(scores)], runs, lost) if own else ""
    ignored = [name for name, rows in scores.items() if not any(row.requested for row in rows)]
    curves, banded = _curves(runs)
    values = accuracies, ignored, progress_charts(curves, "loss"), banded, _pictures(runs), _settings(runs)
    return Section("compare", "Side by side", macros("compare").section(*values))


def _rows(path: Path, name: str) -> list[Score]:
    """Return the rows of a folder that are compared: its own sets, named after it, and the baselines."""
    rows = [row for row in SCORES.read(path).scores if row.in_table and row.selection != "paper"]
    own = [row for row in rows if row.requested] or [row for row in rows if row.kind == "distilled"]
    several, titles = len({row.name for row in own}) > 1, {row.name for row in own}
    names = {title: f"{name}: {title}" if several else name for title in titles}
    return [
        row.model_copy(update={"name": names.get(row.name, row.name), "requested": row.name in titles})
        for row in rows
        if row.name in titles or row.kind != "distilled"
    ]


def _missing(path: Path, name: str) -> list[Missing]:
    """Return the trainings that a folder's own sets lack, named as its rows."""
    document, rows = SCORES.read(path), _rows(path, name)
    several = len({row.name for row in document.scores if row.requested and row.in_table}) > 1
    own = {row.name for row in rows if row.requested}
    renamed = [
        one.model_copy(update={"name": f"{name}: {one.name}" if several else name})
        for one in document.missing
        if one.requested
    ]
    return [one for one in renamed if one.name in own]


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


def _scores(rows: Sequence[Score], runs: Mapping[str, RunFolder], missing: Sequence[Missing]) -> Markup:
    """Return the accuracies, and Welch's tests of those that were scored alike."""
    cells = list[Row]()
    for first, own, ends in matrix_rows(rows, missing):
        about = {"outer step": _step(runs.get(first.name)), "data set": first.dataset, "protocol": first.protocol}
        cells.append({"run": first.name, **own, **about, **ends})
    caption = "Test accuracy of the runs in %, mean ± std (number of networks)"
    alike = len({(row.dataset, row.protocol) for row in rows}) == 1
    several = [row for row in rows if sum(other.network == row.network for other in rows) > 1]
    charts = score_charts(several) if alike else []
    tests = difference_table(welch_tests(rows))
    return macros("compare").accuracies(table(cells, caption), charts, tests, LEVEL)


def _step(run: RunFolder | None) -> Cell | str:
    """Return the outer step of a run's result."""
    if run is None or run.result_step is None:
        return "-"
    return Cell(f"{run.result_step} of {run.setting('steps', '?')}", run.result_step, run.result_words)


def _settings(runs: Mapping[str, RunFolder]) -> Markup:
    """Return a table of the settings in which the runs differ, a column a run."""
    usual = flat(DistillConfig())  # the values of a run of an earlier version that lacks a setting
    values = {name: usual | flat(run.settings) for name, run in runs.items()}
    rows: list[Row] = []
    for key in dict.fromkeys(key for each in values.values() for key in each):
        own = {name: each.get(key) for name, each in values.items()}
        texts = {name: "-" if value is None else setting_text(value) for name, value in own.items()}
        if key not in IGNORED and len(set(texts.values())) > 1:
            rows.append({SETTING: key} | texts)
    if not rows:
        return macros("compare").same() if len(runs) > 1 else Markup()
    return table(rows, "Settings in which the runs differ")


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
    steps = [step for step in curves[0].x if all(step in entries for entries in values)]
    numbers = np.stack([numbers_of([entries[step] for step in steps]) for entries in values])
    return band(curves[0].name, steps, numbers.mean(axis=0).tolist(), numbers.std(axis=0, ddof=1).tolist())


def _pictures(runs: Mapping[str, RunFolder]) -> list[Markup]:
    """Return the last images of each run."""
    pictures = []
    for name, run in runs.items():
        if (grid := read_images(run)) is not None:
            alt = f"synthetic images of {name}: {len(grid.classes)} classes, {grid.columns} images a class"
            pictures.append(picture(compact(grid), alt, f"{name}: {grid.stops[-1].words}", pixelated=True))
    return pictures
