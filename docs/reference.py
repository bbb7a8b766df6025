"""The pages that are generated from the package: `python docs/reference.py` writes them, and a test compares them.

A page is whole (`PAGES`), or has blocks between ``<!-- presets: mtt -->`` and ``<!-- end -->`` (`BLOCKS`).
"""

import re
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import typer
import yaml

import raydd
from raydd.cli import app
from raydd.config import fields
from raydd.config.parsing import flat
from raydd.methods import METHODS

sys.path.insert(0, str(Path(__file__).parent))

from interface import interface, parts

DOCS = Path(__file__).parent
ROOT = DOCS.parent
Command = Any  # typer's own copy of click has no public name

COMMANDS_HEAD = """# Commands

What `raydd COMMAND --help` says, of every command. Errors are one line on stderr that names the value and the remedy;
`RAYDD_TRACEBACK=1` shows where it came from. The exit code is 0, 1 (failed), 2 (bad usage or input) or 130
(interrupted). `--set a.b=c` sets [any setting](settings.md); `--json` prints one JSON document on stdout and nothing
else there.
"""

SETTINGS_HEAD = """# Settings

Every value that `--set` takes, and that a YAML file for `--preset` may hold, with what it is where nobody says:
`raydd distill` first, then `raydd evaluate`. The settings under `data` and `experts` are those of `raydd experts` too.
A method's own values lie over these (see [methods](methods.md)), then a preset's, then what the command sets. A run's
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


def examples() -> str:
    """The README of the examples, and the scripts themselves."""
    page = [(ROOT / "examples" / "README.md").read_text(encoding="utf-8")]
    for script in sorted((ROOT / "examples").glob("*.py")):
        page.append(f"## {script.name}\n\n```python\n{script.read_text(encoding='utf-8').strip()}\n```\n")
    return "\n".join(page)


def defaults(method: str) -> str:
    """What a method sets where nobody does, as a block of YAML."""
    row = METHODS[method]
    tree, rates = row.defaults, row.image_rates
    if not tree:
        return "It sets nothing by default: these are the defaults of `raydd distill`."
    shown = "It sets by default:\n\n```yaml\n" + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None) + "```"
    if not rates:
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
    return f'<details markdown="1"><summary>Presets of {method}</summary>\n\n' + "\n".join(lines) + "\n\n</details>"


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
    return f"{setting.meaning} ({', '.join(setting.names)})" if setting.names else setting.meaning


def _code(value: object) -> str:
    return f"`{_shown(list(value) if isinstance(value, tuple) else value)}`"


PAGES = {"commands.md": commands, "settings.md": settings, "api.md": interface, "parts.md": parts}
"""By file of `docs/`: the pages that are generated as a whole."""

BLOCKS = {"defaults": defaults, "presets": presets}
"""By word: what generates a block of a written page."""

_BLOCK = re.compile(rf"<!-- ({'|'.join(BLOCKS)}): (\w+) -->.*?<!-- end -->", re.DOTALL)


def generated() -> dict[Path, str]:
    """Return every file of `docs/` that has generated text, as it must be."""
    texts = {DOCS / name: make().rstrip() + "\n" for name, make in PAGES.items()}
    for path in sorted(DOCS.glob("*.md")):
        if path not in texts and _BLOCK.search(text := path.read_text(encoding="utf-8")):
            texts[path] = _BLOCK.sub(_filled, text)
    return texts


def _filled(block: re.Match[str]) -> str:
    return f"<!-- {block[1]}: {block[2]} -->\n{BLOCKS[block[1]](block[2])}\n<!-- end -->"


if __name__ == "__main__":
    for file, content in generated().items():
        file.write_text(content, encoding="utf-8")
