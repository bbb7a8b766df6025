"""What was run: the commands that make the same again, every setting, and from which versions.

Shapes: none.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from raydd.config.parsing import build, words
from raydd.config.schema import EvaluateConfig
from raydd.report.documents import Score
from raydd.report.folder import NOT_RECORDED, RunFolder
from raydd.report.html import Section, code, definitions, details, paragraph
from raydd.report.scores import is_scored, read_scores

ANEW = "again"  # what the name of a folder made anew ends with


def made_sections(path: Path) -> list[Section]:
    """How to make the run again, and from what it was made.

    Raises:
        ValueError: A file is damaged.
    """
    run = RunFolder(path)
    body = paragraph(_told(run)) + code("\n".join(commands(run))) + definitions(_sources(run))
    if run.settings_text:
        body += details("config.yaml, every setting", code(run.settings_text))
    return [Section("made", "What was run", body)]


def commands(run: RunFolder) -> list[str]:
    """The commands that make the run and its scores again."""
    anew = f"{run.home.removesuffix('.arrow')}-{ANEW}"
    found = [_distill(run, anew)]
    if run.folder and is_scored(run.path):
        found.append(evaluate_command(run, anew))
    elif run.finished:
        out = ["--out", Path(run.home) / "scores.json"] if run.folder else []
        found.append(shell("raydd", "evaluate", run.home, *out))
    return found


def resume_command(run: RunFolder) -> str:
    """The command that goes on with an unfinished run."""
    return f"{_distill(run, run.home)} --resume"


def evaluate_command(run: RunFolder, anew: str) -> str:
    """The command that scored the set, said of the set made anew."""
    settings = read_scores(run.path).settings
    try:
        config = build(EvaluateConfig, settings) if settings else None
    except ValueError:  # another version's
        config = None
    if config is not None:
        said = shlex.split(words(config, beside=EvaluateConfig()))
        flags = [part for word in said for part in ("--set", word)]
    else:
        flags = _flags(run.scores)
    return shell("raydd", "evaluate", anew, *flags, "--out", Path(anew) / "scores.json")


def _flags(rows: Sequence[Score]) -> list[str]:
    """What the rows of scores say of how they were made."""
    if not rows:
        return []
    protocol, _, epochs = rows[0].protocol.partition(", ")
    networks = ",".join(dict.fromkeys(row.network for row in rows))
    flags = ["--nets", networks, "--seeds", str(rows[0].networks), "--protocol", protocol]
    length = re.fullmatch(r"(\d+) epochs", epochs)
    return [*flags, "--set", f"epochs={length[1]}"] if length else flags


def shell(*arguments: object) -> str:
    """A command as it is typed.

    >>> shell("raydd", "report", "my run")
    "raydd report 'my run'"
    """
    return " ".join(shlex.quote(str(argument)) for argument in arguments)


def _distill(run: RunFolder, out: str) -> str:
    own = Path(run.home) / "buffer"
    buffer = ["--buffer", own] if run.folder and (own / "manifest.json").is_file() else []
    preset = Path(run.home) / "config.yaml" if run.folder else "config.yaml"
    return shell("raydd", "distill", "--preset", preset, *buffer, "--out", out)


def _told(run: RunFolder) -> str:
    told = (
        "These commands make the same again, in another folder: config.yaml holds every setting, the seed among them. "
    )
    if not run.folder:
        told = "Write the settings below to config.yaml; this command then makes the same set again. "
    if run.setting("match", "trajectories") == "trajectories" and not (run.path / "buffer" / "manifest.json").is_file():
        told += (
            "Without --buffer the experts are those of the cache; which are missing are trained by the same settings. "
        )
        told += "Which buffer this run had is not recorded: give its --buffer where it was another. "
    threads = run.setting("threads")
    if threads:
        told += f"Sums depend on the number of CPU threads, which is one of the settings ({threads}). "
    return told + "The same bits come out on the same machine and versions; elsewhere they differ by rounding."


def _sources(run: RunFolder) -> Iterable[tuple[str, str]]:
    """Seeds, versions and machine, as far as the files say them."""
    source = run.synset.provenance if run.synset else {}

    def said(key: str) -> str:
        return str(source.get(key) or NOT_RECORDED)

    device = [record.get("device_mb") is not None for record in run.memory]
    kind = "a GPU" if any(device) else "a CPU" if device else "kind of device not recorded"
    seeds = f"seed {run.setting('seed', NOT_RECORDED)}"
    if run.scores:
        seeds += f"; scores: {run.scores[0].networks} networks"
    yield "values from", str(run.setting("preset", NOT_RECORDED))
    yield "seeds", seeds
    yield "commit", said("commit")
    yield "raydd", said("raydd")
    yield "PyTorch", said("torch")
    yield "Python", said("python")
    yield "fingerprint of the data", said("fingerprint")
    yield "machine", f"{said('machine')} ({kind})" if "machine" in source else f"{kind}; nothing else is recorded"
    yield "result", run.result_words
