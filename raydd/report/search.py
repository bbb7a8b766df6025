"""A search of settings on a page, from the folder that `raydd tune` writes; docs/tuning.md has its files.

Shapes: none; accuracies are fractions in files, per cent on the page.
"""

import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydd.config.parsing import build
from raydd.figures.score_tables import percent, spread
from raydd.figures.search import LOOKS, WORDS, Row
from raydd.figures.trial_tables import settings_text
from raydd.io.safe_yaml import parse_yaml
from raydd.report.documents import Score
from raydd.report.html import Section, code, definitions, details, paragraph, picture_file
from raydd.report.scores import is_scored, read_scores
from raydd.report.trials import front_body, records_of, setting_chart, settings_body, trial_body
from raydd.tuning.results import SETTINGS, load_results, rows_of, winner
from raydd.tuning.space import Space
from raydd.tuning.study import Study

RESULTS, JOURNAL, SPACE, BEST = "results.parquet", "study.journal", "space.yaml", "best.yaml"
TESTED = ("best: ", "preset: ", "first: ")  # names of rows of scores


def is_search(path: Path) -> bool:
    """Whether it is the folder of a search."""
    return (path / SPACE).is_file() and any((path / name).is_file() for name in (RESULTS, JOURNAL))


def tune_headline(path: Path) -> str:
    """The best accuracy on validation images, and what it comes to on the test images, in a line."""
    space, rows, tests = _space(path), _rows(path), _tested(path)
    best = _best(rows, space)
    if best is None:
        return f"{space.name}: no trial of {len(rows)} has come to a score yet"
    words = f"{space.name}: {_validation(best)}, the best of {len(rows)}"
    shown = [f"{test.name.split(':')[0]} {_spread(test)}" for test in tests]
    return f"{words}; on the test images {', '.join(shown)}" if shown else words


def tune_sections(path: Path) -> list[Section]:
    """What was found, all trials, accuracy against every setting, and the front of two metrics.

    Raises:
        ValueError: A file of the search is damaged.
    """
    space, rows = _space(path), _rows(path)
    sections = [Section("search", f"Search {space.name}", _found(path, space, rows))]
    if rows:
        sections.append(Section("trials", "Trials", trial_body(space, rows)))
    if panels := [chart for key, domain in space.domains.items() if (chart := setting_chart(rows, key, domain))]:
        sections.append(Section("settings", "Settings", settings_body(path, panels)))
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
    """A row a trial: of the results, or of the study where the search has not come to its end, or goes on again."""
    if (path / RESULTS).is_file() and not _goes_on(path):
        return [*load_results(path / RESULTS)]
    if not (path / JOURNAL).is_file():
        return []
    with tempfile.TemporaryDirectory() as folder:  # a search mends its journal, and another process may be writing
        copied = shutil.copy(path / JOURNAL, folder)
        try:
            return [*rows_of(Study(_space(path), Path(copied)).records())]
        except ValueError:
            told = f"is damaged, or not of {SPACE} beside it; use another --out"
            raise ValueError(f"{path / JOURNAL} {told}") from None


def _goes_on(path: Path) -> bool:
    """Whether the study has been written since the results, which are the last that a search writes."""
    results, journal = path / RESULTS, path / JOURNAL
    return journal.is_file() and journal.stat().st_mtime_ns > results.stat().st_mtime_ns


def _best(rows: Sequence[Row], space: Space) -> Row | None:
    best = winner(records_of(rows), space.directions)
    return None if best is None else next(row for row in rows if row["trial"] == best.number)


def _tested(path: Path) -> list[Score]:
    """The best and the preset on the test images; none where they were not tested."""
    if not is_scored(path):
        return []
    return [score for score in read_scores(path).scores if score.name.startswith(TESTED)]


def _found(path: Path, space: Space, rows: Sequence[Row]) -> str:
    """The headline's section: the best, on validation and on test, beside the preset, and how to make it again."""
    best, preset, tests = _best(rows, space), _preset(path), _tested(path)
    told = f"Settings of {space.method} on {Path(space.dataset).name} were searched by accuracy on validation images"
    networks = preset.get("evaluate_networks")
    told += f", the mean of {networks} fresh networks a score" if isinstance(networks, int) else ""
    told += ". The best is a maximum over many trials: what it is worth says the accuracy on the test images, which no"
    body = paragraph(
        f"{told} choice depended on. Accuracies in per cent, ± the standard deviation (n - 1) over networks."
    )
    body += definitions([*_outcome(best, tests), *_plan(space, rows)])
    unfinished = sum(row["state"] == "unfinished" for row in rows)
    if unfinished or not (path / RESULTS).is_file():
        several = f"{unfinished} trials are unfinished" if unfinished > 1 else "1 trial is unfinished"
        few = several if unfinished else "The search has not come to its end"
        body += paragraph(f"{few}. This goes on with the search:") + code(f"raydd tune --resume --out {_quoted(path)}")
    again = f"raydd tune --space {_quoted(path / SPACE)} --out runs/again"
    asked = paragraph("This searches anew, by the same space:") + code(again)
    text = (path / SPACE).read_text(encoding="utf-8")
    return body + _kept(path) + details(f"{SPACE}: what was searched, and how", asked + code(text))


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
    known = {key.removeprefix(SETTINGS): best[key] for key in best if key.startswith(SETTINGS)}
    return [
        *pairs,
        ("settings of the best", settings_text({key: value for key, value in known.items() if value is not None})),
    ]


def _plan(space: Space, rows: Sequence[Row]) -> list[tuple[str, str]]:
    counts = {state: sum(row["state"] == state for row in rows) for state in LOOKS}
    states = ", ".join(f"{count} {WORDS[state]}" for state, count in counts.items() if count)
    early = (
        "none" if space.scheduler.name == "none" else f"{space.scheduler.name}, from report {space.scheduler.grace} on"
    )
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
    """The best trial's settings, as they are kept; empty where there are none yet."""
    if not (path / BEST).is_file():
        return {}
    try:
        tree = parse_yaml((path / BEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path / BEST} is damaged ({reason}); `raydd tune --resume` writes it anew") from None
    return tree if isinstance(tree, dict) else {}


def _kept(path: Path) -> str:
    """The best trial's images and settings, and the command that uses them."""
    body = ""
    if (path / "best" / "synset.png").is_file():
        body += picture_file(
            path / "best" / "synset.png", "the best trial's synthetic images, a row a class", "The best set"
        )
    if not (path / BEST).is_file():
        return body
    text = (path / BEST).read_text(encoding="utf-8")
    remark = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    command = next((line for line in remark if line.startswith("raydd distill")), "")
    if command:
        words = shlex.split(command)
        words[words.index("--preset") + 1] = str(path / BEST)  # it was relative to where the search was started
        body += paragraph("This makes the best set again, bit by bit where its trial ran to the end:")
        body += code(shlex.join(words))
    else:
        body += "".join(paragraph(line) for line in remark[2:])
    return body + details(f"{BEST}: all settings of the best trial", code(text))


def _validation(best: Row) -> str:
    return f"{percent(best['accuracy'])} % on validation images by trial {best['trial']} ({WORDS[best['state']]})"


def _spread(test: Score) -> str:
    return f"{spread(test.mean, test.spread)} % ({test.networks} network{'s' * (test.networks > 1)})"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
