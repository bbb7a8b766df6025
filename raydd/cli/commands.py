"""All commands of the command line, each loaded when it is asked for, and how their help is laid out."""

import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

MODULES = {
    "verbs": "quickstart experts distill finish",
    "evaluate": "evaluate",
    "first_answer": "try",
    "ablate": "ablate",
    "continual": "continual",
    "tune": "tune spaces",
    "nas": "nas",
    "report": "report",
    "reference": "methods settings",
    "campaign": "campaigns campaign",
    "files": "datasets export relabel import",
    "buffer": "buffer",
    "analyse": "analyse",
    "doctor": "doctor",
}
"""By module: the commands that it defines, in the order of `raydd --help`."""


class Command(TyperCommand):
    """A command whose help lists its flags below the titles that they have."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and flags."""
        _list_parameters(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example in one line, to be copied."""
        formatter.write(f"\n  {self.epilog}\n")

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first paragraph of the help, whole."""
        return _first_paragraph(self)


class Group(TyperGroup):
    """A command that has commands, whose help tells each in a whole sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; where there are none, print the help before the error."""
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help(), file=sys.stderr)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags, then the commands."""
        _list_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first paragraph of the help, whole."""
        return _first_paragraph(self)


class Program(Group):
    """The command `raydd`, whose commands are loaded when they are asked for: a start takes little time."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Loaded()


class _Loaded(MutableMapping[str, Any]):
    """All commands by name."""

    def __init__(self) -> None:
        self.modules = {name: module for module, names in MODULES.items() for name in names.split()}
        self.commands: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self.commands:
            app = import_module(f"raydd.cli.{self.modules[name]}").app
            app.rich_markup_mode = None
            group = typer.main.get_group(app)
            self.commands |= {name: group} if group.name else group.commands
        return self.commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    def __setitem__(self, name: str, command: Any) -> None:
        self.commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self.modules[name]


def _list_parameters(command: Any, ctx: Any, formatter: Any) -> None:
    titles: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        own = "Arguments" if isinstance(parameter, TyperArgument) else "Options"
        title = getattr(parameter, "rich_help_panel", None) or own
        if record := parameter.get_help_record(ctx):
            titles.setdefault(title, []).append(record)
    for title, records in titles.items():
        with formatter.section(title):
            formatter.write_dl(records)


def _first_paragraph(command: Any) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())
