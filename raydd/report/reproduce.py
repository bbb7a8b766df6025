"""How a run was made: the commands that repeat it, every setting, and the versions."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from raydd.config.parsing import build, words
from raydd.config.schema import EvaluateConfig
from raydd.data.score_record import Score
from raydd.report.documents import SCORES
from raydd.report.folder import NOT_RECORDED, RunFolder
from raydd.report.html import Section, macros

ANEW = "again"  # the end of the name of a repeated run's folder


def made_sections(path: Path) -> list[Section]:
    """Return the commands that repeat a run, and its sources."""
    run = RunFolder(path)
    own = (run.path / "buffer" / "manifest.json").is_file()
    cached = run.setting("match", "trajectories") == "trajectories" and not own
    device = [record.get("device_mb") is not None for record in run.memory]
    kind = "a GPU" if any(device) else "a CPU" if device else "kind of device not recorded"
    body = macros("made").section(run, commands(run), cached, kind, NOT_RECORDED)
    return [Section("made", "What was run", body)]


def commands(run: RunFolder) -> list[str]:
    """Return the commands that make the run and its scores again."""
    anew = f"{run.home.removesuffix('.arrow')}-{ANEW}"
    lines = [_distill(run, anew)]
    if run.folder and SCORES.find(run.path):
        lines.append(evaluate_command(run, anew))
    elif run.finished:
        out = ["--out", str(Path(run.home) / "scores.json")] if run.folder else []
        lines.append(shlex.join(["raydd", "evaluate", run.home, *out]))
    return lines


def resume_command(run: RunFolder) -> str:
    """Return the command that resumes an unfinished run."""
    return f"{_distill(run, run.home)} --resume"


def evaluate_command(run: RunFolder, anew: str) -> str:
    """Return the command that scores the set of the repeated run as this one was scored."""
    settings = SCORES.read(run.path).settings
    try:
        config = build(EvaluateConfig, settings) if settings else None
    except ValueError:  # another version's
        config = None
    if config is not None:
        changed = shlex.split(words(config, beside=EvaluateConfig()))
        flags = [part for word in changed for part in ("--set", word)]
    else:
        flags = _flags(run.scores)
    return shlex.join(["raydd", "evaluate", anew, *flags, "--out", str(Path(anew) / "scores.json")])


def _flags(rows: Sequence[Score]) -> list[str]:
    """Return the flags of an evaluation that its rows tell."""
    if not rows:
        return []
    protocol, _, epochs = rows[0].protocol.partition(", ")
    networks = ",".join(dict.fromkeys(row.network for row in rows))
    flags = ["--nets", networks, "--seeds", str(rows[0].networks), "--protocol", protocol]
    length = re.fullmatch(r"(\d+) epochs", epochs)
    return [*flags, "--set", f"epochs={length[1]}"] if length else flags


def _distill(run: RunFolder, out: str) -> str:
    own = Path(run.home) / "buffer"
    buffer = ["--buffer", str(own)] if run.folder and (own / "manifest.json").is_file() else []
    preset = str(Path(run.home) / "config.yaml") if run.folder else "config.yaml"
    return shlex.join(["raydd", "distill", "--preset", preset, *buffer, "--out", out])
