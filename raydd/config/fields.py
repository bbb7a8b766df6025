"""What each setting of a configuration is: its type, default, choices and meaning, from the schema."""

import inspect
import re
import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from raydd.config.names import TABLES, Named, check_name
from raydd.config.parsing import C, Config, build, flat


class Setting(NamedTuple):
    """One setting.

    Attributes:
        key: Its dotted name, such as ``lr.images``.
        kind: The Python type of a value, or of each value where ``several``.
        several: Whether it holds several values.
        default: Its value where nobody sets it.
        meaning: What it is, from the ``Attributes`` of its class, with single backticks.
        choices: The words that it may be; empty where they are not listed.
        table: The key of `raydd.config.names.TABLES` that its names are in, or "".
    """

    key: str
    kind: type
    several: bool
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    table: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The words that a shell may complete to."""
        return TABLES[self.table].names if self.table else self.choices


@cache
def settings(kind: type) -> dict[str, Setting]:
    """Return every setting of a configuration, or of a named tuple with defaults, by its dotted name.

    >>> from raydd.config.schema import DistillConfig
    >>> found = settings(DistillConfig)["experts.optimizer"]
    >>> found.kind.__name__, found.default, found.choices
    ('str', 'sgd', ('sgd', 'momentum', 'adam', 'gsam', 'smooth'))
    """
    return {setting.key: setting for setting in _settings(kind, "")}


def _settings(kind: Any, prefix: str) -> Iterator[Setting]:
    texts, hints = meanings(kind), get_type_hints(kind, include_extras=True)
    usual = {name: field.default for name, field in kind.model_fields.items()} if _is_config(kind) else {}
    for name in usual or kind._fields:
        if _is_config(hints[name]):
            yield from _settings(hints[name], f"{prefix}{name}.")
            continue
        base, several, choices = _value_type(hints[name])
        table = next((data for data in getattr(hints[name], "__metadata__", ()) if isinstance(data, Named)), "")
        default = usual[name] if usual else kind._field_defaults[name]
        yield Setting(prefix + name, base, several, default, texts.get(name, "").replace("``", "`"), choices, table)


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def _value_type(annotation: Any) -> tuple[type, bool, tuple[str, ...]]:
    """Return the plain type behind an annotation, whether it is a tuple of them, and its choices."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value_type(arguments[0])
    if origin in (Union, types.UnionType):
        return _value_type(next(part for part in arguments if part is not type(None)))
    if origin is tuple:
        base, _, choices = _value_type(arguments[0])
        return base, True, choices
    if origin is Literal:
        return type(arguments[0]), False, tuple(map(str, arguments))
    return annotation, False, ()


@cache
def meanings(kind: type) -> dict[str, str]:
    """Return what the section ``Attributes`` of a class's docstring says, by name."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    lines, name = dict[str, str](), ""
    for line in section.splitlines():
        if start := re.match(r"    (\w+): (.*)", line):
            name = start[1]
            lines[name] = start[2]
        elif name and line.startswith("        "):
            lines[name] += " " + line.strip()
        elif line.strip():
            break
    return lines


def find_settings(kind: type[Config], key: str | None) -> list[Setting]:
    """Return the settings that a key names: one, all below it, or all that have it as a part; without a key, all.

    >>> from raydd.config.schema import DistillConfig
    >>> [setting.key for setting in find_settings(DistillConfig, "pruning")]
    ['pruning.rate', 'pruning.metric']
    """
    known = settings(kind)
    if key is None or key in known:
        return list(known.values()) if key is None else [known[key]]
    part = f".{key.strip('.')}."
    below = [setting for name, setting in known.items() if f".{name}".startswith(part)]
    return below or [setting for name, setting in known.items() if part in f".{name}."]


def configure(kind: type[C], *layers: Mapping[str, Any], partial: bool = False) -> C:
    """Return a configuration from layers of nested values, all of whose names are known.

    Args:
        kind: The configuration.
        layers: See `raydd.config.parsing.build`.
        partial: More layers follow elsewhere: what settings say of each other is not checked.

    Raises:
        ValueError: In one line: an unknown setting or name, or a value of the wrong type.
    """
    config = build(kind, *layers, partial=partial)
    values = flat(config)
    for setting in settings(kind).values():
        value = values[setting.key] if setting.table else None
        for name in value if isinstance(value, list) else () if value is None else (value,):
            check_name(setting.table, name)
    return config
