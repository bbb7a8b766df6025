"""The commands that list what can be set: methods, settings."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from raydd.cli.flags import Output, command, offer
from raydd.cli.output import show
from raydd.config.fields import Setting, find_settings, settings
from raydd.config.nas import NasConfig
from raydd.config.parsing import Config
from raydd.config.rules import unread
from raydd.config.schema import DistillConfig, EvaluateConfig

app = typer.Typer()
KINDS: dict[str, type[Config]] = {"distill": DistillConfig, "evaluate": EvaluateConfig, "nas": NasConfig}
"""By command: the configuration that its ``--set`` gives; experts, ablate and tune take settings of ``distill``."""
KEYS = list(dict.fromkeys(key for kind in KINDS.values() for key in settings(kind)))
_KEY = "A setting, or the first part of several such as lr; all by default."


@command(app, "raydd methods")
def methods(screen: Output) -> None:
    """List the distillation methods, one line each."""
    from raydd.methods import METHODS

    rows = [{"method": name, "match": row.match, "summary": row.summary} for name, row in METHODS.load().items()]
    show(screen, {"methods": rows}, [f"{row['method']:11} {row['summary']}" for row in rows])


@command(app, "raydd settings pruning.rate", name="settings")
def list_settings(
    screen: Output, key: Annotated[str | None, typer.Argument(help=_KEY, autocompletion=offer(lambda: KEYS))] = None
) -> None:
    """Explain the settings that --set takes: meaning, default, and the methods that read each.

    A method may set another default: a run's config.yaml has all values.
    """
    chosen = [(verb, setting) for verb, kind in KINDS.items() for setting in find_settings(kind, key)]
    if not chosen:
        raise ValueError(f"unknown setting {key!r}{_nearest(str(key))}; `raydd settings` lists all")
    from raydd.methods import METHODS

    methods = {name: method.match for name, method in METHODS.load().items()}
    rows = [_row(verb, setting, methods) for verb, setting in chosen]
    show(screen, {"settings": rows}, [_text(row, len(methods)) for row in rows])


def _nearest(key: str) -> str:
    """Return the question for the settings whose whole name, or whose last part, is nearest to a key."""
    spelled = {name.rpartition(".")[2]: name for name in reversed(KEYS)} if "." not in key else {}
    near = difflib.get_close_matches(key, spelled | {name: name for name in KEYS}, n=1)
    return "".join(f": did you mean {spelled.get(word, word)}?" for word in near)


def _row(verb: str, setting: Setting, methods: Mapping[str, str]) -> dict[str, Any]:
    return {
        "key": setting.key,
        "command": verb,
        "default": list(setting.default) if isinstance(setting.default, tuple) else setting.default,
        "choices": list(setting.names),
        "meaning": setting.meaning,
        "methods": [name for name, match in methods.items() if verb == "distill" and not unread(setting.key, match)],
    }


def _text(row: dict[str, Any], count: int) -> str:
    default = row["default"]
    text = ",".join(map(str, default)) if isinstance(default, list) else str(default)
    text = text.lower() if isinstance(default, bool) else "none" if default in (None, "", []) else text
    lines = [f"{row['key']} (raydd {row['command']}; default: {text})", row["meaning"]]
    if row["choices"]:
        lines.append(f"one of {', '.join(row['choices'])}")
    if row["command"] == "distill":
        lines.append(f"read by {'all methods' if len(row['methods']) == count else ', '.join(row['methods'])}")
    return "\n    ".join(lines)
