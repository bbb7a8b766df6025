"""Pages that are made from the package when the site is built, so that they cannot say what it does not do."""

import inspect
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import typer
import yaml

import raydd
from raydd.cli import app
from raydd.config import fields
from raydd.config.parsing import Config, flat
from raydd.methods import DEFAULTS, PER_IMAGE

ROOT = Path(__file__).parents[1]
Command = Any  # typer's own copy of click has no public name

COMMANDS_HEAD = """# Commands

What `raydd COMMAND --help` says, of every command. Errors are one line on stderr that names the value and the remedy;
`RAYDD_TRACEBACK=1` shows where it came from. The exit code is 0, 1 (failed), 2 (bad usage or input) or 130
(interrupted). `--set a.b=c` sets [any setting](settings.md); `--json` prints one JSON document on stdout and nothing
else there.
"""

API_HEAD = """# Python

`import raydd` has these names and imports neither torch nor Ray; each is loaded when it is first asked for. Errors that
a user can mend are a `ValueError` of one line. Settings are frozen; a nested one may be given as a mapping.
What methods are made of is on another page: [parts](parts.md).
"""

PARTS_HEAD = """# Parts of a method

What [adding a method](extending.md#a-method) puts together. These modules are open to scripts, but may change
between versions more freely than [the names of `raydd`](api.md).
"""

PARTS = {
    "raydd.distillation.recipe": ("Setup", "Recipe"),
    "raydd.distillation.objective": ("Objective",),
    "raydd.distillation.loop": ("Leaf", "Step", "Distillation"),
    "raydd.distillation.trajectory_objective": ("TrajectoryMatching",),
    "raydd.distillation.statistic_objective": ("StatisticMatching", "RealImages"),
    "raydd.distillation.network_sources": ("Look", "Networks", "RandomInit", "Trained", "Snapshots", "Mixed"),
    "raydd.distillation.network_queue": ("Queue",),
    "raydd.numerics.flat": ("FlatModel",),
    "raydd.numerics.unroll": ("unroll",),
    "raydd.numerics.distances": ("normalized", "normalized_mse", "along", "at_end", "kept", "pruned"),
    "raydd.numerics.statistics": ("means", "cosine", "gaussian"),
    "raydd.numerics.losses": ("cross_entropy", "balance", "clip_weight", "gradient_penalty"),
    "raydd.numerics.sharpness": ("perturbation", "surrogate"),
    "raydd.numerics.perturbation": ("perturb",),
    "raydd.numerics.formation": ("Formation", "encode"),
    "raydd.numerics.augment": ("augment",),
    "raydd.numerics.rng": ("generator",),
    "raydd.selection.coresets": ("herd", "spread"),
    "raydd.data.image_source": ("Source", "Content", "Part", "from_array"),
    "raydd.data.datasets": ("Row",),
    "raydd.models.zoo": ("Network", "build"),
    "raydd.models.classifier": ("Classifier",),
    "raydd.models.spaces": ("Grid", "ConvNetRow", "build", "parse"),
    "raydd.evaluation.protocols": ("Protocol",),
}
"""By module: the names that the page of parts shows."""

SETTINGS_HEAD = """# Settings

Every value that `--set` takes, and that a YAML file for `--preset` may hold, with what it is where nobody says:
`raydd distill` first, then `raydd evaluate`. The settings under `data` and `experts` are those of `raydd experts` too.
A method's own values lie over these (see [methods](methods.md)), then a preset's, then what is said. A run's
`config.yaml` has all of them.
"""


def commands() -> str:
    """The page of all commands."""
    page = [COMMANDS_HEAD]
    for words, command, context in walk(typer.main.get_command(app), "raydd"):
        if getattr(command, "commands", None):
            page.append(f"{'#' * len(words.split())} {words}\n\n{command.help or ''}\n")
        else:
            page.append(_command(words, command, context))
    return "\n".join(page)


def walk(group: Command, words: str) -> Iterator[tuple[str, Command, Any]]:
    """Every command below a group, groups before what is in them, in the order of `--help`."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        here = f"{words} {name}"
        yield here, command, command.context_class(command, info_name=here)
        if getattr(command, "commands", None):
            yield from walk(command, here)


def _command(words: str, command: Command, context: Any) -> str:
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    rows = [record for param in command.params if (record := param.get_help_record(context))]
    lines = [f"{'#' * len(words.split())} {words}", "", command.help or "", "", f"```text\n{usage}\n```", ""]
    if rows:
        lines += ["| option | |", "|---|---|", *(f"| `{cell(name)}` | {cell(text)} |" for name, text in rows), ""]
    if command.epilog:
        lines += ["Example:", "", f"    {command.epilog.removeprefix('Example:').strip()}", ""]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Words as they may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def interface() -> str:
    """The page of every public name of raydd, by kind."""
    groups: dict[str, list[str]] = {"Functions": [], "Settings": [], "Objects": [], "Tables": []}
    for name in raydd.__all__:
        groups[_kind(getattr(raydd, name))].append(name)
    page = [API_HEAD]
    for title, names in groups.items():
        page.append(f"## {title}\n")
        page += [f"::: raydd.{name}\n{_keys(name)}" for name in names]
    return "\n".join(page)


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return "Settings" if issubclass(value, Config) else "Objects"
    return "Functions" if callable(value) else "Tables"


def _keys(name: str) -> str:
    value = getattr(raydd, name)
    return f"\nIts names: {', '.join(f'`{key}`' for key in value)}.\n" if isinstance(value, dict) else ""


def parts() -> str:
    """The page of what methods, data sets and networks are made of."""
    page = [PARTS_HEAD]
    for module, names in PARTS.items():
        page += [f"## {module}\n", *(f"::: {module}.{name}\n" for name in names)]
    return "\n".join(page)


def examples() -> str:
    """The README of the examples, and the scripts themselves."""
    page = [(ROOT / "examples" / "README.md").read_text(encoding="utf-8")]
    for script in sorted((ROOT / "examples").glob("*.py")):
        page.append(f"## {script.name}\n\n```python\n{script.read_text(encoding='utf-8').strip()}\n```\n")
    return "\n".join(page)


def defaults(method: str) -> str:
    """What a method sets where nobody does, as a block of YAML."""
    tree = DEFAULTS.get(method)
    if not tree:
        return "Unasked, it sets nothing: these are the defaults of `raydd distill`."
    shown = "Unasked, it sets:\n\n```yaml\n" + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None) + "```"
    rates = PER_IMAGE.get(method)
    if rates is None:
        return shown
    others = sorted({rate for name, rate in rates.items() if name and rate != rates[""]})
    special = [f"{rate:g} x ipc for {', '.join(name for name in rates if rates[name] == rate)}" for rate in others]
    return f"{shown}\n\nand `lr.images`: {rates['']:g} x ipc; {'; '.join(special)}."


def presets(method: str) -> str:
    """The shipped values of a method: a row a data set and number of images, a column a setting that one gives."""
    rows = list[tuple[str, str, dict[str, Any]]]()
    home = Path(str(resources.files("raydd"))) / "presets"
    for file in sorted([*home.glob(f"*/{method}.yaml"), *home.glob(f"*/{method}-official.yaml")]):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        shared = flat(content.get("all", {}))
        name = f"{file.parent.name}/{file.stem}"
        for ipc, tree in content.get("ipc", {}).items():
            rows.append((name, str(ipc), shared | flat(tree)))
    if not rows:
        return "No preset is shipped."
    keys = list(dict.fromkeys(key for _, _, tree in rows for key in tree))
    head = ["preset", "ipc", *(f"`{key}`" for key in keys)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, ipc, tree in rows:
        lines.append(f"| {name} | {ipc} | {' | '.join(_shown(tree.get(key, '')) for key in keys)} |")
    return f'??? note "Presets of {method}"\n\n' + "\n".join(f"    {line}" for line in lines)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def settings() -> str:
    """The page of every setting of a distillation and of an evaluation."""
    page = [SETTINGS_HEAD]
    for title, kind in (("Distilling", raydd.DistillConfig), ("Scoring", raydd.EvaluateConfig)):
        page.append(f"## {title}\n\n| setting | default | |\n|---|---|---|")
        page += [
            f"| `{row.key}` | {_code(row.default)} | {cell(_meaning(row))} |" for row in fields.settings(kind).values()
        ]
        page.append("")
    return "\n".join(page)


def _meaning(setting: fields.Setting) -> str:
    """What a setting is, with the words that it may be."""
    return f"{setting.text} ({', '.join(setting.names)})" if setting.names else setting.text


def _code(value: object) -> str:
    return f"`{_shown(list(value) if isinstance(value, tuple) else value)}`"
