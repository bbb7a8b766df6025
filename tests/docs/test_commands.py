"""Every command line and Python block of the documentation, run in smoke size; commands.yaml tells how, or why not."""

import ast
import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
import yaml
from markdown_it import MarkdownIt

from raydd.api.nas import NasConfig
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.cli import app, run
from raydd.config.names import PLUGIN_SPACES
from raydd.config.parsing import build, parse_settings
from raydd.config.presets import expand_preset
from raydd.config.schema import DistillConfig, EvaluateConfig, ExpertsConfig
from raydd.data.datasets import DATASETS
from raydd.evaluation.protocols import PROTOCOLS
from raydd.interop.layouts import layout_row
from raydd.methods import METHODS
from raydd.models.spaces import SPACES
from raydd.models.zoo import NETWORKS, find
from raydd.numerics.flat import split
from raydd.plugins import installed
from raydd.selection.coresets import CORESETS
from raydd.tuning.space_files import load_space

ROOT = Path(__file__).parents[2]
TABLE = yaml.safe_load(Path(__file__).with_name("commands.yaml").read_text(encoding="utf-8"))
GENERATED = {"api.md", "commands.md", "parts.md", "settings.md"}
"""Pages of `docs/reference.py`: doctests and the examples of ``--help``, which are run as such."""
DOCS = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name not in GENERATED),
    *(ROOT / folder / "README.md" for folder in ("cluster", "tune_spaces", "examples")),
    ROOT / "CONTRIBUTING.md",
]
SHELLS = {"bash", "sh", "shell", "console"}
PROGRAMS = re.compile(
    r"raydd|uvx?|python|pytest|pipx?|ray|apt-get|kubectl|sbatch|srun|docker|tensorboard|optuna-dashboard|git|curl|export"
    r"|source|cd|for|chmod|mkdocs|ruff|mypy|mlflow|wandb|eval|\.ci/run"
)
"""What a block of commands without a language begins with."""
OPERATORS, REDIRECTS = {"&&", "||", ";", "&", "|"}, {">", ">>", "<", "2>", "&>"}
LOOP = re.compile(r"for (?P<name>\w+) in (?P<values>[^;]+);\s*do (?P<body>.+?);\s*done")
ASSIGNED = re.compile(r"[A-Z][A-Z0-9_]*=")


class Block(NamedTuple):
    """Text that stands as code in a document: its language, and the number of its first line."""

    doc: str
    line: int
    language: str
    text: str


class Command(NamedTuple):
    """A command of a document, without assignments before it and what becomes of its output."""

    doc: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def name(self) -> str:
        return f"{self.doc}:{self.line} {' '.join(self.words[:3])}"


def blocks(doc: str, text: str, first: int = 1) -> Iterator[Block]:
    """The code of a Markdown text; fences in what a tab or a note indents are found too."""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "fence":
            yield Block(doc, first + token.map[0] + 1, (token.info.split() or [""])[0].strip("{}."), token.content)
        elif token.type == "code_block" and re.search(r"^\s*(```|~~~)", token.content, re.MULTILINE):
            yield from blocks(doc, textwrap.dedent(token.content), first + token.map[0])
        elif token.type == "code_block":
            yield Block(doc, first + token.map[0], "", token.content)


def statements(block: Block) -> Iterator[tuple[int, str]]:
    """The lines of a block in which commands stand, continued ones in one piece, with their numbers."""
    lines = re.sub(r"\\\n", lambda _: "\\\0", block.text).splitlines()
    prompted, number, found = any(line.startswith("$ ") for line in lines), block.line, list[tuple[int, str]]()
    for line in lines:
        plain = line.removeprefix("$ ").replace("\\\0", " ").strip()
        if plain and not plain.startswith("#") and (line.startswith("$ ") or not prompted):
            found.append((number, plain))
        number += 1 + line.count("\0")
    first = next((plain for _, plain in found), "").split()
    while first and ASSIGNED.match(first[0]):
        first.pop(0)
    if block.language in SHELLS or (not block.language and first and PROGRAMS.fullmatch(first[0])):
        yield from found


def simple(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line of shell: loops are unrolled, pipes and chains taken apart.

    >>> [*simple("A=1 uv run x --to 'a b' > log && y  # why")]
    [('x', '--to', 'a b'), ('y',)]
    """
    if loop := LOOP.match(line):
        for value in loop["values"].split():
            yield from simple(loop["body"].replace(f"${loop['name']}", value))
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words, all_words = list[str](), iter([*lexer, ";"])
    for word in all_words:
        if word in REDIRECTS:
            next(all_words)
        elif word in OPERATORS:
            while words and ASSIGNED.match(words[0]):
                words.pop(0)
            words = words[2:] if words[:2] == ["uv", "run"] else words
            if words:
                yield tuple(["raydd", *words[3:]] if words[:3] == ["python", "-m", "raydd"] else words)
            words = []
        else:
            words.append(word)


def verbs(group: Any, before: str = "raydd") -> Iterator[tuple[str, Any]]:
    """All commands of raydd, with what is typed for them."""
    for name, entry in group.commands.items():
        typed = f"{before} {name}"
        yield from verbs(entry, typed) if getattr(entry, "commands", None) else [(typed, entry)]


def documented() -> Iterator[Command]:
    """The commands of all documents, and the example of every command's help."""
    for path in DOCS:
        doc = path.relative_to(ROOT).as_posix()
        for block in BLOCKS[doc]:
            for line, text in statements(block):
                yield from (Command(doc, line, words) for words in simple(text))
    for typed, entry in verbs(PROGRAM):
        example = (entry.epilog or "").partition("Example: ")[2]
        yield from (Command(f"{typed} --help", 0, words) for words in simple(example))


PROGRAM = typer.main.get_command(app)
BLOCKS = {(doc := path.relative_to(ROOT).as_posix()): [*blocks(doc, path.read_text("utf-8"))] for path in DOCS}
COMMANDS = [*dict.fromkeys(documented())]


@pytest.fixture(scope="module", autouse=True)
def _installed(plugin):
    """The plugin of CONTRIBUTING.md is installed, here and in Ray's workers."""
    tables = (METHODS, NETWORKS, DATASETS, PROTOCOLS, SPACES, PLUGIN_SPACES)
    before = [dict(table) for table in tables]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugin)
        patch.setenv("PYTHONPATH", str(plugin), prepend=os.pathsep)
        installed.cache_clear()
        for table in tables:
            patch.setattr(table, "_complete", False)
            table.load()
        yield
    installed.cache_clear()
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


def row_of(command: Command, part: str) -> dict[str, Any] | None:
    """The first row of a part of the table that matches."""
    return next((row for row in TABLE[part] if re.match(row["match"], str(command))), None)


def inner(command: Command) -> Command | None:
    """The command of raydd that a command is, or hands to another program."""
    start = command.words.index("raydd") if "raydd" in command.words else None
    handed = start == 0 or command.words[:1] == ("sbatch",) or command.words[:3] == ("ray", "job", "submit")
    return command._replace(words=command.words[start:]) if start is not None and handed else None


RAYDD = [*dict.fromkeys(found for command in COMMANDS if (found := inner(command)))]
RUN = [command for command in COMMANDS if command.words[0] == "raydd" and row_of(command, "elsewhere") is None]
PYTHON = [block for found in BLOCKS.values() for block in found if block.language in ("python", "py", "pycon")]
SCRIPTS_OF_RAY = [block for block in PYTHON if "ray.init(" in block.text]
ONCE = {command.words: command for command in reversed(RUN)}.values()
IN_ORDER = sorted([*ONCE, *(block for block in PYTHON if block not in SCRIPTS_OF_RAY)], key=lambda item: item[:2])
"""What is run here, document by document; a command that stands in several in the first of them."""


def names(items: Any) -> Any:
    return [f"{item.doc}:{item.line}" if isinstance(item, Block) else item.name for item in items]


def test_commands_are_found_where_they_stand() -> None:
    text = (
        "# T\n\n    uv run raydd a \\\n      b  # c\n    X=1 pytest -q &\n\n"
        "text\n\n    loss = 1\n\n```console\n$ raydd d > e\nprinted\n```\n\n"
        '=== "Tab"\n\n    ```bash\n    for k in f g; do raydd $k --set x=[1,2]; done\n    mv h i | j\n    ```\n\n'
        "```yaml\nraydd: k\n```\n"
    )
    found = [
        (line, words) for block in blocks("t.md", text) for line, one in statements(block) for words in simple(one)
    ]
    assert found == [
        (3, ("raydd", "a", "b")),
        (5, ("pytest", "-q")),
        (12, ("raydd", "d")),
        (19, ("raydd", "f", "--set", "x=[1,2]")),
        (19, ("raydd", "g", "--set", "x=[1,2]")),
        (20, ("mv", "h", "i")),
        (20, ("j",)),
    ]


def test_every_command_is_run_or_told_of_in_the_table() -> None:
    assert len(COMMANDS) > 80
    unknown = [
        command.name
        for command in COMMANDS
        if row_of(command, "elsewhere") is None and (command.words[0] != "raydd" or row_of(command, "run") is None)
    ]
    assert unknown == [], "give each a row in commands.yaml"


def test_every_row_is_of_a_command() -> None:
    told = [id(row_of(command, "elsewhere")) for command in COMMANDS]
    told += [id(row_of(command, "run")) for command in RUN]
    spare = [row["match"] for part in ("elsewhere", "run") for row in TABLE[part] if id(row) not in told]
    assert spare == [], "no command is left for these rows of commands.yaml"
    for row in TABLE["python_elsewhere"]:
        assert any(block.doc == row["in"] and re.search(row["match"], block.text) for block in PYTHON), row


@pytest.mark.rows("row", TABLE["elsewhere"], ids=lambda row: row["match"])
def test_what_is_not_run_here_says_why_or_which_test_runs_it(row) -> None:
    assert row.get("why") or row.get("test")
    if "test" in row:
        file, _, function = row["test"].partition("::")
        defined = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert (function in defined) if function else any(name.startswith("test_") for name in defined)


def parsed(words: tuple[str, ...]) -> Any:
    """What the command line makes of the words behind ``raydd``: a context with a command and its parameters.

    Raises:
        typer.Exit: The words ask for help or the version alone.
    """
    entry, context, rest = PROGRAM, None, list(words)
    name = "raydd"
    while True:
        context = entry.make_context(name, rest, parent=context)
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not getattr(entry, "commands", None):
            return context
        name, entry, rest = entry.resolve_command(context, rest)


HELP = {"--help", "--version"}
CONFIGS = {"experts": ExpertsConfig, "datasets": ExpertsConfig, "import": ExpertsConfig, "evaluate": EvaluateConfig}
CONFIGS |= {"continual": EvaluateConfig, "nas": NasConfig}
CHECKS = {  # by parameter: raises ValueError or KeyError where there is no such name
    "method": METHODS.__getitem__,
    "network": find,
    "nets": lambda text: [find(name) for name in text.split(",")],
    "format": layout_row,
    "baselines": lambda text: [CORESETS[name] for name in text.split(",") if name != "none"],
}
NAMED = {"dataset": DATASETS.__getitem__, "protocol": PROTOCOLS.__getitem__}  # or a path
NAMED |= {"preset": lambda name: expand_preset(name, 1)}


def check_words(words: tuple[str, ...]) -> None:
    """Refuse words behind ``raydd`` with an unknown flag, setting or name.

    Raises:
        typer.TyperException: The command line does not take them.
        ValueError: There is no such setting or name.
        KeyError: There is no such name.
    """
    context = parsed(words)
    verb, given = context.command.name, context.params
    build(CONFIGS.get(verb, DistillConfig), parse_settings(given.get("settings") or ()))
    for name, check in CHECKS.items():
        if given.get(name) is not None:
            check(given[name])
    for name, check in (NAMED | {"space": SPACES.__getitem__ if verb == "nas" else load_space}).items():
        if (word := given.get(name)) is not None and not is_path(word, "" if name == "preset" else "/"):
            check(word)


@pytest.mark.rows("command", RAYDD, ids=names(RAYDD))
def test_flags_settings_and_names_are_real(command) -> None:
    if HELP & {*command.words}:
        with pytest.raises(typer.Exit) as ended:
            parsed(command.words[1:])
        assert ended.value.exit_code == 0
        return
    check_words(command.words[1:])
    assert row_of(command, "run") or row_of(command, "elsewhere")


@pytest.mark.rows(
    "words",
    [
        "evaluate runs/a --net MLP",
        "buffer inspect runs/a",
        "distill --ipc many",
        "distill --set stepz=3",
        "evaluate runs/a --set steps=3",
        "distill --method mttt",
        "experts --dataset cifar11",
        "evaluate runs/a --nets ConvNet,ResNet19",
        "distill --preset cifar10/nobody",
        "tune --space datm_nothing",
        "nas runs/a --space convnet721",
    ],
)
def test_a_wrong_word_is_seen(words) -> None:
    with pytest.raises((typer.TyperException, ValueError, KeyError)):
        check_words(tuple(words.split()))


def is_path(word: str, *separators: str) -> bool:
    """Whether a word that may be a name is the path of something."""
    return (
        word in TABLE["folders"]
        or word.isupper()
        or word.endswith((".yaml", ".npz", ".parquet"))
        or any(s and s in word for s in separators)
    )


def test_flags_in_running_text_are_real() -> None:
    """``raydd verb --flag`` in sentences and tables: the verb is one, and has the flag."""
    known_flags = {
        typed: {flag for one in entry.params for flag in one.opts} | {"--help"} for typed, entry in verbs(PROGRAM)
    }
    groups, wrong, seen = {typed.rpartition(" ")[0] for typed in known_flags}, [], 0
    for path in DOCS:
        for code in re.findall(r"(?<!`)`(raydd [a-z][^`]*)`(?!`)", path.read_text("utf-8")):
            words = re.split(r"[\s|]+", code.replace("\\|", "|"))
            typed = " ".join(words[:3] if " ".join(words[:2]) in groups else words[:2])
            flags = {word.partition("=")[0].rstrip(",.") for word in words if word.startswith("--")}
            seen += 1
            if typed not in known_flags and typed not in groups:
                wrong.append(f"{path.name}: {code}")
            elif typed in known_flags and flags - known_flags[typed]:
                wrong.append(f"{path.name}: {code}: {flags - known_flags[typed]}")
    assert wrong == []
    assert seen > 20


SCRIPTS = [command for command in COMMANDS if re.match(r"python (benchmarks|examples)/", str(command))]


@pytest.mark.rows("command", SCRIPTS, ids=names(SCRIPTS))
def test_scripts_are_there_and_have_their_flags(command) -> None:
    text = (ROOT / command.words[1]).read_text("utf-8")
    missing = [word for word in command.words[2:] if word.startswith("--") and f'"{word}"' not in text]
    assert missing == []


RAY = [command for command in COMMANDS if command.words[0] == "ray"]


@pytest.mark.rows("command", RAY, ids=names(RAY))
def test_ray_knows_its_flags(command) -> None:
    from ray.scripts.scripts import cli

    entry, context, rest, name = cli, None, list(command.words[1:]), "ray"
    while hasattr(entry, "commands"):
        context = entry.make_context(name, rest, parent=context)
        name, entry, rest = entry.resolve_command(context, [*context._protected_args, *context.args])
    assert entry.make_context(name, rest, parent=context).params


def scored_here(matrix, where, show, known, keep):
    """All trainings of a matrix, without Ray but with its queue."""
    from raydd.evaluation.matrix import Scorer
    from raydd.remote.job_queue import JobQueue

    queue, scorer = JobQueue([job for job in matrix.jobs() if job not in known], matrix.rungs), Scorer(matrix)
    while (job := queue.take("here")) is not None:
        outcome = scorer.score(job, lambda epoch, value, job=job: queue.keep_training(job, epoch, value))
        queue.put("here", job, outcome)
        keep(job, outcome)
    return {**known, **dict(queue.results())}


def trained_here(job, missing, where, **options):
    """All missing experts, by what a worker of Ray's trains them with."""
    from raydd.buffer.arrow_buffer import refresh_manifest
    from raydd.remote.experts import Progress
    from raydd.training.expert_worker import ExpertTrainer

    assert options.pop("upload") is None, "a store is tested by tests/buffer/test_upload.py and tests/remote"
    trainer, epochs = ExpertTrainer(job), job.experts.epochs
    for done, index in enumerate(missing, start=1):
        trainer.train(index)
        yield Progress(done, len(missing), done * epochs, len(missing) * epochs, 1.0)
    refresh_manifest(job.folder)


def tried_here(task, trials, **options):
    """All trials of a search, one after another, by what a worker of Ray's runs them with."""
    from raydd.tuning.trial import run_trial

    while (ask := trials.next()) is not None:
        for told in run_trial(task, ask.number, ask.values):
            if trials.report(ask.number, told._asdict()):
                break
        trials.complete(ask.number, told._asdict())


@pytest.fixture(scope="module", params=["here", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.remote])])
def workers(request, tmp_path_factory):
    """Who works: what Ray's workers would do is done in this process; or, slowly, one local Ray serves all commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYDD_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name, protocol in PROTOCOLS.items():
            patch.setitem(PROTOCOLS, name, protocol.model_copy(update={"epochs": 1, "real_epochs": 1}))
        patch.setattr("raydd.run.window_search.PILOT_STEPS", 2)
        if request.param == "here":
            patch.setattr("raydd.remote.session._connected", lambda *_: nullcontext())
            patch.setattr("raydd.remote.train_matrix.train_matrix", scored_here)
            patch.setattr("raydd.remote.train_matrix.device_on_cluster", lambda where, note: "cpu")
            patch.setattr("raydd.remote.experts.train_missing", trained_here)
            patch.setattr("raydd.remote.tune.run_trials", tried_here)
            patch.setattr("raydd.remote.trial_demand.trial_demand", lambda *arguments, **options: None)
            yield request.param
            return
        from raydd.remote.session import session

        with session():
            yield request.param


SHIPPED = dict(PROTOCOLS)
PRESET = {"steps": 1, "student_steps": 1, "span": 1, "window": {"high": 1}, "threads": 1}
PRESET |= {"experts": {"network": "MLP", "num_experts": 2, "epochs": 3}}
PROTOCOL = {"base": "mtt", "epochs": 1}
SPACE = {"method": "dm", "dataset": "digits", "domains": {"lr.images": {"log_uniform": [0.1, 10.0]}}}
SPACE |= {"budget": {"samples": 2}}
ROWS = ["ConvNetW2D1BNARAP", "ConvNetW4D1NNARAP", "ConvNetW2D1NNARAP"]


class Materials:
    """What commands find at their paths, each made once and copied there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, kind: str, path: Path, settings: list[str]) -> None:
        """Put something of a kind at a path where there is nothing yet."""
        if (path / "space.yaml" if kind == "search" else path).exists():
            return
        if kind in ("run", "soft") and path.suffix in (".pt", ".arrow"):
            kind, path = "foreign" if path.suffix == ".pt" else kind, path.parent
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {"preset": PRESET, "protocol": PROTOCOL, "rows": ROWS, "space": SPACE}.get(kind)
        if text is not None:
            path.write_text(yaml.safe_dump(text))
            return
        shutil.copytree(getattr(self, kind)(settings), path, dirs_exist_ok=True)

    def _made(self, name: str, *words: str) -> Path:
        """The folder of a name; a command makes it."""
        folder = self._folder / name
        if not folder.exists():
            assert run([*words, "--out", str(folder)]) == 0
        return folder

    def _distilled(self, method: str) -> Path:
        words = ["distill", "--method", method, "--network", "MLP", "--buffer", str(self.buffer([])), "--window", "0:1"]
        settings = "steps=2 student_steps=1 span=1 threads=1 probe_every=1 evaluate_every=1 keep_scored=true"
        settings += " evaluate_networks=1 evaluate_epochs=1"
        return self._made(method, *words, *(word for setting in settings.split() for word in ("--set", setting)))

    def run(self, settings: list[str]) -> Path:
        return self._distilled("mtt")

    def soft(self, settings: list[str]) -> Path:
        return self._distilled("datm")

    def buffer(self, settings: list[str]) -> Path:
        said = sorted(setting for setting in settings if setting.startswith("data."))
        words = ["experts", "--network", "MLP", "--num-experts", "2", "--epochs", "3", "--num-workers", "1"]
        name = "-".join(["buffer", *said])
        return self._made(name, *words, *(word for setting in said for word in ("--set", setting)))

    def search(self, settings: list[str]) -> Path:
        words = ["tune", "--space", "mtt_digits", "--network", "MLP", "--num-samples", "1", "--seeds", "0"]
        small = "steps=1 student_steps=1 experts.num_experts=2 experts.epochs=6 evaluate_networks=1 evaluate_epochs=1"
        return self._made("search", *words, *(word for setting in small.split() for word in ("--set", setting)))

    def images(self, settings: list[str]) -> Path:
        """Two classes of twenty pictures, 8 x 8, a folder each."""
        import numpy as np
        from PIL import Image

        if not (folder := self._folder / "images").exists():
            pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 8, 8, 3), dtype=np.uint8)
            for name, pictures in zip(("cat", "dog"), pixels, strict=True):
                (folder / name).mkdir(parents=True)
                for index, picture in enumerate(pictures):
                    Image.fromarray(picture).save(folder / name / f"{index}.png")
        return folder

    def exported(self, settings: list[str]) -> Path:
        return self._made("exported", "export", str(self.run([])), "--format", "mtt")

    def foreign(self, settings: list[str]) -> Path:
        """A set in MTT's layout that does not say of itself."""
        if not (folder := self._folder / "foreign").exists():
            shutil.copytree(self.exported([]), folder, ignore=shutil.ignore_patterns("raydd.json"))
        return folder

    def idc(self, settings: list[str]) -> Path:
        pixels = self._made("random", "distill", "--method", "random", "--network", "MLP")
        folder = self._made("tgdd", "export", str(pixels), "--format", "tgdd")
        if (folder / "data_best.pt").exists():
            (folder / "data_best.pt").rename(folder / "data.pt")
            (folder / "raydd.json").unlink()
        return folder

    def _snapshots(self) -> list[list[dict[str, torch.Tensor]]]:
        """The tensors of every snapshot of every expert, by name."""
        buffer = ArrowBuffer(self.buffer([]))
        thetas = [[buffer.snapshot(expert, epoch) for epoch in range(buffer.epochs + 1)] for expert in buffer.experts]
        return [[{k: v.clone() for k, v in split(theta, buffer.spec.layout).items()} for theta in e] for e in thetas]

    def experts(self, settings: list[str]) -> Path:
        """Experts as MTT saves them: lists of snapshots, each a list of tensors."""
        if not (folder := self._folder / "replay").exists():
            folder.mkdir()
            listed = [[[*tensors.values()] for tensors in expert] for expert in self._snapshots()]
            torch.save(listed, folder / "replay_buffer_0.pt")
        return folder

    def checkpoints(self, settings: list[str]) -> Path:
        """Experts as code after IDC saves them: a file a snapshot."""
        if not (folder := self._folder / "checkpoints").exists():
            folder.mkdir()
            for index, expert in enumerate(self._snapshots()):
                for epoch, tensors in enumerate(expert):
                    torch.save({"state_dict": tensors}, folder / f"mlp_premodel{index}_epoch{epoch}.pth.tar")
        return folder


@pytest.fixture(scope="module")
def materials(workers, tmp_path_factory):
    return Materials(tmp_path_factory.mktemp("materials"))


@pytest.fixture(scope="module")
def worlds(workers, tmp_path_factory):
    """The folder in which a document's commands run, one after another."""
    made: dict[str, Path] = {}
    return lambda doc: made.setdefault(doc, tmp_path_factory.mktemp("world"))


NEW = {"distill", "export", "import", "tune"}
"""What does not go on in a folder that is there already, unless it is told to resume."""
NAMES = {"preset", "protocol", "rows", "space"}
"""Kinds for whose paths a name may stand."""


def in_smoke_size(command: Command, row: dict[str, Any], world: Path) -> list[str]:
    """The words behind ``raydd`` with what makes the command small; stores are folders, and other images are digits."""
    words = [re.sub(r"^\w+://bucket([^?]*).*", rf"file://{world}/bucket\1", word) for word in command.words[1:]]
    named = re.search(r"--(?:dataset (\S+)|preset (\w+)/)", str(command))
    digits = ["--dataset", "digits"] if named and (named[1] or named[2]) in DATASETS else []
    return [*words, *digits, *shlex.split(row.get("add", ""))]


def prepare(given: dict[str, Any], verb: str, row: dict[str, Any], world: Path, materials: Materials) -> None:
    """Put at a command's paths what it reads, and away what it would not write over."""
    if verb in NEW and not given.get("resume"):
        for path in [Path(given["out"])] if given.get("out") else world.glob("runs/*digits*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name, kind in row.get("holds", {}).items():
        values = given[name] if isinstance(given.get(name), list) else [given.get(name)]
        for value in (str(value).removeprefix("file://") for value in values if value is not None):
            if kind not in NAMES or is_path(value):
                materials.place(kind, world / value, given.get("settings") or [])
    images = given.get("dataset", given.get("name"))
    if images is not None and images not in DATASETS:
        materials.place("images", world / images, [])


@pytest.fixture(scope="module")
def variables():
    """The names that the Python blocks of a document have set so far."""
    return {doc: {"__name__": doc} for doc in BLOCKS}


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("item", IN_ORDER, ids=names(IN_ORDER))
def test_the_documentation_runs(item, materials, worlds, variables, monkeypatch, capfd):
    world = worlds(item.doc)
    monkeypatch.chdir(world)
    if isinstance(item, Block):
        before = len(variables[item.doc])
        run_block(item, variables[item.doc])
        assert len(variables[item.doc]) >= before
        return
    row, given = row_of(item, "run"), {}
    words = in_smoke_size(item, row, world)
    if words[0] in ("campaign", "campaigns"):  # which train nothing here, and whose plans may need their epochs
        for name, protocol in SHIPPED.items():
            monkeypatch.setitem(PROTOCOLS, name, protocol)
    if not HELP & {*words}:
        context = parsed(tuple(words))
        given = context.params
        prepare(given, context.command.name, row, world, materials)
    capfd.readouterr()
    code = run(words)
    out, err = capfd.readouterr()
    assert code == 0, f"raydd {' '.join(words)}: {err}"
    assert out or err
    if given.get("out"):
        assert (world / str(given["out"]).removeprefix("file://")).exists()


def run_block(block: Block, variables: dict[str, Any]) -> None:
    """Run Python in smoke size; what follows may use what it sets."""
    for row in TABLE["python_elsewhere"]:
        if block.doc == row["in"] and re.search(row["match"], block.text):
            assert row["why"]
            return
    text = doctest.script_from_examples(block.text) if ">>> " in block.text else block.text
    tree = ast.fix_missing_locations(Smaller().visit(ast.parse(text)))
    exec(compile(tree, f"{block.doc}:{block.line}", "exec"), variables)


class Smaller(ast.NodeTransformer):
    """Tells calls of some names other keywords."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        said = {key: ast.parse(value, mode="eval").body for key, value in TABLE["python"].get(name, {}).items()}
        kept = [word for word in node.keywords if word.arg not in said]
        return ast.Call(node.func, node.args, kept + [ast.keyword(key, value) for key, value in said.items()])


@pytest.mark.slow
@pytest.mark.remote
@pytest.mark.parametrize("block", SCRIPTS_OF_RAY, ids=names(SCRIPTS_OF_RAY))
def test_a_script_that_starts_ray_runs(block, tmp_path):
    words = [sys.executable, "-c", block.text]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
