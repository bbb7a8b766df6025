"""A search of settings on a page, from the folder that `raydd tune` writes; docs/tuning.md has its files."""

import math
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from raydd.config.parsing import build
from raydd.data.score_record import Score
from raydd.figures.score_tables import percent, spread
from raydd.figures.search import STATES, Row, draw_history, draw_pareto, settings_of, split
from raydd.figures.sweep import draw_values
from raydd.figures.trial_tables import settings_text
from raydd.io.safe_yaml import parse_yaml
from raydd.report.html import Cell, Column, Row as Line, Section, chart, macros, picture_file, plural, table
from raydd.report.scores import is_scored, number_cell, read_scores
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
        sections.append(Section("trials", "Trials", trial_body(space, rows)))
    if settings := settings_body(path, space, rows):
        sections.append(Section("settings", "Settings", settings))
    costs = [metric for metric in space.directions if metric != "accuracy"]
    if costs and rows:
        sections.append(Section("front", f"Accuracy and {costs[0]}", front_body(space, rows, costs[0])))
    return sections


def _space(path: Path) -> Space:
    try:
        tree = parse_yaml((path / SPACE).read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError("it holds no mapping")
        return build(Space, tree)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path / SPACE} is damaged ({reason}); `raydd tune` with another --out searches anew"
        ) from None


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
    best = winner(records_of(rows), space.directions)
    return None if best is None else next(row for row in rows if row["trial"] == best.number)


def _tested(path: Path) -> list[Score]:
    """Return the best and the preset on the test images; none where they were not tested."""
    if not is_scored(path):
        return []
    return [score for score in read_scores(path).scores if score.name.startswith(TESTED)]


def _summary(path: Path, space: Space, rows: Sequence[Row]) -> Markup:
    """Return the best, on validation and on test, beside the preset, and the commands that repeat it."""
    networks = _preset(path).get("evaluate_networks")
    unfinished = sum(row["state"] == "unfinished" for row in rows)
    values = {
        "space": space,
        "dataset": Path(space.dataset).name,
        "networks": networks if isinstance(networks, int) else None,
        "pairs": [*_outcome(_best(rows, space), _tested(path)), *_plan(space, rows)],
        "going_on": bool(unfinished) or not (path / RESULTS).is_file(),
        "unfinished": unfinished,
        "resume": shlex.join(["raydd", "tune", "--resume", "--out", str(path)]),
        "best": _best_set(path),
        "again": shlex.join(["raydd", "tune", "--space", str(path / SPACE), "--out", "runs/again"]),
        "text": (path / SPACE).read_text(encoding="utf-8"),
    }
    return macros("search").section(**values)


def _outcome(best: Row | None, tests: Sequence[Score]) -> list[tuple[str, str]]:
    if best is None:
        return [("best", "no trial has come to a score yet")]
    pairs = [("best on validation", _validation(best))]
    for test in tests:
        pairs.append((f"on test, {test.name}", f"{_spread(test)}, {test.network}, protocol {test.protocol}"))
    if not tests:
        pairs.append(("on test", "not measured"))
    elif len({test.name for test in tests}) == 1:
        none = "trial 0 is the best itself" if best["trial"] == 0 else "no complete trial has the preset's own values"
        pairs.append(("on test, preset", none))
    return [*pairs, ("settings of the best", settings_text(settings_of(best)))]


def _plan(space: Space, rows: Sequence[Row]) -> list[tuple[str, str]]:
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    states = ", ".join(f"{count} {STATES[state]['label']}" for state, count in counts.items() if count)
    scheduler = space.scheduler
    early = "none" if scheduler.name == "none" else f"{scheduler.name}, from report {scheduler.grace} on"
    return [
        ("trials", f"{len(rows)}: {states}" if rows else "none yet"),
        ("proposed by", space.search.algorithm),
        ("stopped early by", early),
        ("metrics", ", ".join(f"{name} ({way})" for name, way in space.directions.items())),
        ("images a class", str(space.ipc)),
        ("constraints", "; ".join(space.constraints) or "none"),
        ("seed", str(space.seed)),
    ]


def _preset(path: Path) -> Mapping[str, Any]:
    """Return the best trial's settings; empty where there are none yet."""
    if not (path / BEST).is_file():
        return {}
    try:
        tree = parse_yaml((path / BEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path / BEST} is damaged ({reason}); `raydd tune --resume` writes it anew") from None
    return tree if isinstance(tree, dict) else {}


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


def records_of(rows: Sequence[Row]) -> list[Record]:
    """Return rows as the records that a winner and a front are chosen among; settings play no part."""
    return [
        Record(row["trial"], row["state"], {}, _metrics(row), row.get("step", 0), (), row.get("error", ""))
        for row in rows
    ]


def _metrics(row: Row) -> dict[str, float]:
    keys = [key for key in row if key not in NOT_METRICS and not key.startswith(SETTINGS)]
    return {key: row[key] for key in keys if row[key] is not None}


def trial_body(space: Space, rows: Sequence[Row]) -> Markup:
    """Return the accuracy of each trial with the best so far, and the table of all."""
    figure = chart(draw_history(rows, space.name))
    return macros("search").trials(len(split(rows)[1]), figure, _trial_table(space, rows))


def _trial_table(space: Space, rows: Sequence[Row]) -> Markup:
    keys = [key for key in rows[0] if key.startswith(SETTINGS)]
    columns = [Column("trial", numeric=True), Column("state"), Column("accuracy in %", numeric=True)]
    columns += [Column("step", numeric=True), Column("seconds", numeric=True)]
    columns += [Column(key.removeprefix(SETTINGS), numeric=_numeric(rows, key)) for key in keys]
    cells: list[Line] = []
    for row in rows:
        seconds = row.get("seconds")
        text = "-" if seconds is None else f"{seconds:.1f}"
        cells.append(
            [
                Cell(str(row["trial"]), row["trial"]),
                Cell(STATES[row["state"]]["label"], note=row.get("error") or ""),
                number_cell(percent(row["accuracy"]), row["accuracy"]),
                number_cell(str(row.get("step", "-")), row.get("step")),
                number_cell(text, seconds),
                *(_value(row[key]) for key in keys),
            ]
        )
    return table(columns, cells, f"Trials of {space.name}, accuracy on validation images")


def _numeric(rows: Sequence[Row], key: str) -> bool:
    known = [row[key] for row in rows if row[key] is not None]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def _value(value: Any) -> Cell:
    if value is None:
        return Cell("-", math.nan, "not searched in this trial")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(str(value))
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Cell(text, value, "" if float(text) == value else str(value))


def settings_body(path: Path, space: Space, rows: Sequence[Row]) -> Markup:
    """Return accuracy against every setting, and the pictures of importances and parallel coordinates if they exist."""
    if not any(settings_of(row) for row in split(rows)[0]):
        return Markup()
    files = {path / "figures" / f"{name}.png": text for name, text in PICTURES.items()}
    pictures = [picture_file(file, text, text) for file, text in files.items() if file.is_file()]
    return macros("search").settings(chart(draw_values(rows, scales(space), space.name)), pictures)


def front_body(space: Space, rows: Sequence[Row], cost: str) -> Markup:
    """Return accuracy against a cost, with the trials that no other one beats in both."""
    best = sorted(record.number for record in front(records_of(rows), space.directions))
    unit = "seconds of outer steps" if cost == "seconds" else cost
    figure = draw_pareto(rows, best, cost, space.name)
    return macros("search").front(unit, ", ".join(map(str, best)), chart(figure))
