"""A search of settings on a page, from the folder that `raydd tune` writes; docs/tuning.md has its files."""

import math
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from raydd.config.parsing import build
from raydd.data.score_record import Score
from raydd.figures.cells import Cell, Row as Line, number_cell, percent, spread
from raydd.figures.search import STATES, Row, draw_history, draw_pareto, settings_of, split
from raydd.figures.sweep import draw_values
from raydd.figures.trial_tables import settings_text
from raydd.io.document import one_line
from raydd.io.safe_yaml import parse_yaml
from raydd.report.documents import SCORES
from raydd.report.html import Section, chart, macros, picture_file, plural, table
from raydd.tuning.results import SETTINGS, Record, front, load_results, rows_of, scales, winner
from raydd.tuning.space import Space
from raydd.tuning.study import Study

RESULTS, JOURNAL, SPACE, BEST = "results.parquet", "study.journal", "space.yaml", "best.yaml"
TESTED = ("best: ", "preset: ", "first: ")  # names of rows of scores
NOT_METRICS = {"trial", "state", "step", "error"}
PICTURES = {
    "importance": "Share of each setting in the variance of the accuracy (fANOVA); of little worth below twenty trials",
    "parallel": "Parallel coordinates: a line a trial, the better the darker",
}


def is_search(path: Path) -> bool:
    """Return whether it is the folder of a search."""
    return (path / SPACE).is_file() and any((path / name).is_file() for name in (RESULTS, JOURNAL))


def tune_headline(path: Path) -> str:
    """Return the best accuracy on validation images, and its accuracy on the test images, in a line."""
    space, rows, tests = _space(path), _rows(path), _tested(path)
    best = _best(rows, space)
    if best is None:
        return f"{space.name}: no trial of {len(rows)} has come to a score yet"
    words = f"{space.name}: {_validation(best)}, the best of {len(rows)}"
    texts = [f"{test.name.split(':')[0]} {_spread(test)}" for test in tests]
    return f"{words}; on the test images {', '.join(texts)}" if texts else words


def tune_sections(path: Path) -> list[Section]:
    """Return the best trial, all trials, accuracy against every setting, and the front of two metrics."""
    space, rows = _space(path), _rows(path)
    sections = [Section("search", f"Search {space.name}", _summary(path, space, rows))]
    if rows:
        sections.append(Section("trials", "Trials", _trials(space, rows)))
    if any(settings_of(row) for row in split(rows)[0]):
        files = {path / "figures" / f"{name}.png": text for name, text in PICTURES.items()}
        pictures = [picture_file(file, text, text) for file, text in files.items() if file.is_file()]
        figure = chart(draw_values(rows, scales(space), space.name))
        sections.append(Section("settings", "Settings", macros("search").settings(figure, pictures)))
    costs = [metric for metric in space.directions if metric != "accuracy"]
    if costs and rows:
        best = sorted(record.number for record in front(_records(rows), space.directions))
        figure = chart(draw_pareto(rows, best, costs[0], space.name))
        sections.append(Section("front", f"Accuracy and {costs[0]}", macros("search").front(costs[0], best, figure)))
    return sections


def _space(path: Path) -> Space:
    space: Space = _yaml(path / SPACE, "`raydd tune` with another --out searches anew", lambda tree: build(Space, tree))
    return space


def _yaml(file: Path, remedy: str, make: Callable[[dict[str, Any]], Any] = dict) -> Any:
    """Read a YAML file's mapping, and build an object from it."""
    try:
        tree = parse_yaml(file.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError("it holds no mapping")
        return make(tree)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({one_line(error)}); {remedy}") from None


def _rows(path: Path) -> list[Row]:
    """Return a row a trial: of the results, or of the study while the search is unfinished."""
    results, journal = path / RESULTS, path / JOURNAL
    resumed = journal.is_file() and results.is_file() and journal.stat().st_mtime_ns > results.stat().st_mtime_ns
    if results.is_file() and not resumed:  # a search writes its results last
        return [*load_results(results)]
    if not journal.is_file():
        return []
    with tempfile.TemporaryDirectory() as folder:  # a search repairs its journal, and another process may be writing
        copied = shutil.copy(journal, folder)
        try:
            return [*rows_of(Study(_space(path), Path(copied)).records())]
        except ValueError:
            problem = f"is damaged, or not of {SPACE} beside it; use another --out"
            raise ValueError(f"{journal} {problem}") from None


def _best(rows: Sequence[Row], space: Space) -> Row | None:
    best = winner(_records(rows), space.directions)
    return None if best is None else next(row for row in rows if row["trial"] == best.number)


def _records(rows: Sequence[Row]) -> list[Record]:
    """Return rows as the records that a winner and a front are chosen among; settings play no part."""
    records = []
    for row in rows:
        metrics = {key: row[key] for key in row if key not in NOT_METRICS and not key.startswith(SETTINGS)}
        known = {key: value for key, value in metrics.items() if value is not None}
        records.append(Record(row["trial"], row["state"], {}, known, row.get("step", 0), (), row.get("error", "")))
    return records


def _tested(path: Path) -> list[Score]:
    """Return the best and the preset on the test images; none where they were not tested."""
    scores = SCORES.read(path).scores if SCORES.find(path) else ()
    return [score for score in scores if score.name.startswith(TESTED)]


def _summary(path: Path, space: Space, rows: Sequence[Row]) -> Markup:
    """Return the best, on validation and on test, beside the preset, and the commands that repeat it."""
    preset = path / BEST
    settings = _yaml(preset, "`raydd tune --resume` writes it anew") if preset.is_file() else {}
    networks, best = settings.get("evaluate_networks"), _best(rows, space)
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    states = ", ".join(f"{count} {STATES[state]['label']}" for state, count in counts.items() if count)
    values = {
        "space": space,
        "dataset": Path(space.dataset).name,
        "networks": networks if isinstance(networks, int) else None,
        "validation": None if best is None else _validation(best),
        "tests": [(test, _spread(test)) for test in _tested(path)],
        "first": best is not None and best["trial"] == 0,
        "settings": None if best is None else settings_text(settings_of(best)),
        "trials": f"{len(rows)}: {states}" if rows else "none yet",
        "metrics": ", ".join(f"{name} ({way})" for name, way in space.directions.items()),
        "going_on": bool(counts["unfinished"]) or not (path / RESULTS).is_file(),
        "unfinished": counts["unfinished"],
        "resume": shlex.join(["raydd", "tune", "--resume", "--out", str(path)]),
        "best": _best_set(path),
        "again": shlex.join(["raydd", "tune", "--space", str(path / SPACE), "--out", "runs/again"]),
        "text": (path / SPACE).read_text(encoding="utf-8"),
    }
    return macros("search").section(**values)


def _best_set(path: Path) -> Markup:
    """Return the best trial's images and settings, and the command that uses them."""
    file, picture, text = path / "best" / "synset.png", Markup(), ""
    if file.is_file():
        picture = picture_file(file, "the best trial's synthetic images, a row a class", "The best set")
    if (path / BEST).is_file():
        text = (path / BEST).read_text(encoding="utf-8")
    remarks = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    command = next((line for line in remarks if line.startswith("raydd distill")), "")
    if command:
        words = shlex.split(command)
        words[words.index("--preset") + 1] = str(path / BEST)  # it was relative to the folder of the search's start
        command = shlex.join(words)
    return macros("search").best(picture, command, remarks[2:], text)


def _validation(best: Row) -> str:
    state = STATES[best["state"]]["label"]
    return f"{percent(best['accuracy'])} % on validation images by trial {best['trial']} ({state})"


def _spread(test: Score) -> str:
    return f"{spread(test.mean, test.spread)} % ({plural(test.networks, 'network')})"


def _trials(space: Space, rows: Sequence[Row]) -> Markup:
    """Return the accuracy of each trial with the best so far, and the table of all."""
    cells: list[Line] = []
    for row in rows:
        seconds = row.get("seconds")
        own: dict[str, Cell | str] = {
            "trial": Cell(str(row["trial"]), row["trial"]),
            "state": Cell(STATES[row["state"]]["label"], note=row.get("error") or ""),
            "accuracy in %": number_cell(percent(row["accuracy"]), row["accuracy"]),
            "step": number_cell(str(row.get("step", "-")), row.get("step")),
            "seconds": number_cell("-" if seconds is None else f"{seconds:.1f}", seconds),
        }
        searched = (key for key in row if key.startswith(SETTINGS))
        cells.append(own | {key.removeprefix(SETTINGS): _value(row[key]) for key in searched})
    scores = table(cells, f"Trials of {space.name}, accuracy on validation images")
    return macros("search").trials(len(split(rows)[1]), chart(draw_history(rows, space.name)), scores)


def _value(value: Any) -> Cell:
    if value is None:
        return Cell("-", math.nan, "not searched in this trial")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value))
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Cell(text, value, "" if float(text) == value else str(value))
