"""The commands that list what can be set: methods, settings."""

import inspect
from typing import Annotated, Any

import typer

from raydd.cli.flags import AsJson, command, offer
from raydd.cli.output import show
from raydd.config.fields import Setting, find_settings, settings, unknown_setting
from raydd.config.nas import NasConfig
from raydd.config.parsing import Config
from raydd.config.rules import unread
from raydd.config.schema import DistillConfig, EvaluateConfig

app = typer.Typer()
KINDS: dict[str, type[Config]] = {"distill": DistillConfig, "evaluate": EvaluateConfig, "nas": NasConfig}
"""By command: the configuration that its ``--set`` gives; experts, ablate and tune take settings of ``distill``."""


def summary(row: Any) -> str:
    """Return the first line of a method's description."""
    return (inspect.getdoc(row) or "").partition("\n")[0]


def families() -> dict[str, str]:
    """Return by method what it matches: trajectories, statistics or nothing."""
    from raydd.methods import METHODS, complete

    return {name: complete(DistillConfig(method=name)).match for name in METHODS}


@command(app, "raydd methods")
def methods(as_json: AsJson = False) -> None:
    """List the distillation methods, one line each."""
    from raydd.io.console import Screen
    from raydd.methods import METHODS

    matches = families()
    rows = [{"method": name, "match": matches[name], "summary": summary(row)} for name, row in METHODS.items()]
    lines = [f"{row['method']:11} {row['summary']}" for row in rows]
    show(Screen(as_json), {"methods": rows}, lines)


@command(app, "raydd settings pruning.rate", name="settings")
def list_settings(
    key: Annotated[
        str | None,
        typer.Argument(
            help="A setting, or the first part of several such as lr; all by default.",
            autocompletion=offer(lambda: [name for kind in KINDS.values() for name in settings(kind)]),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain the settings that --set takes: meaning, default, and the methods that read each.

    A method may set another default: `raydd methods` lists them, and a run's config.yaml has all values.
    """
    found = {
        verb: list(settings(kind).values()) if key is None else find_settings(kind, key) for verb, kind in KINDS.items()
    }
    if not any(found.values()):
        raise ValueError(
            unknown_setting(str(key), {name: s for kind in KINDS.values() for name, s in settings(kind).items()})
        )
    from raydd.io.console import Screen

    matches = families()
    rows = [_row(verb, setting, matches) for verb, rows in found.items() for setting in rows]
    show(Screen(as_json), {"settings": rows}, [_line(row) for row in rows])


def _row(verb: str, setting: Setting, matches: dict[str, str]) -> dict[str, Any]:
    readers = [name for name, match in matches.items() if verb == "distill" and not unread(setting.key, match)]
    default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    return {
        "key": setting.key,
        "command": verb,
        "default": default,
        "choices": list(setting.names),
        "meaning": setting.meaning.replace("``", "`"),
        "methods": readers,
    }


def _line(row: dict[str, Any]) -> str:
    """Return a setting as text: its name and default, its meaning, and who reads it."""
    text = [f"{row['key']} (raydd {row['command']}; default: {shown(row['default'])})", f"    {row['meaning']}"]
    if row["choices"]:
        text.append(f"    one of {', '.join(row['choices'])}")
    if row["command"] == "distill":
        every = len(row["methods"]) == len(families())
        text.append(f"    read by {'all methods' if every else ', '.join(row['methods'])}")
    return "\n".join(text)


def shown(default: Any) -> str:
    """Return a default as a person reads it.

    >>> shown(None), shown([]), shown([5, 10]), shown(False), shown(1e-05)
    ('none', 'none', '5,10', 'false', '1e-05')
    """
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return ",".join(map(str, default)) or "none"
    return "none" if default in (None, "") else str(default)
