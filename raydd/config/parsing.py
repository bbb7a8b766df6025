"""Reading and writing frozen configurations: layers, presets' trees, ``--set a.b=c``, one-line refusals."""

import difflib
import json
import reprlib
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from raydd.io.safe_yaml import MAX_DEPTH, parse_yaml


class Config(BaseModel):
    """A frozen configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)
Tree = dict[str, Any]
_SHORT = reprlib.Repr()
_SHORT.maxstring = 120


def build(kind: type[C], *layers: Mapping[str, Any], partial: bool = False) -> C:
    """Return a configuration from layers of nested values, later layers over earlier ones.

    Args:
        kind: The configuration.
        layers: Nested values.
        partial: More layers follow elsewhere: what settings say of each other is not checked.

    Raises:
        ValueError: In one line, naming the key, its value and what is allowed.

    >>> from raydd.config.schema import ExpertConfig
    >>> build(ExpertConfig, {"epochs": 5}, {"lr": 0.1}).epochs
    5
    """
    try:
        return kind.model_validate(merged(*layers), context={"partial": partial})
    except ValidationError as error:
        raise ValueError(_explain(kind, error)) from None


def merge(tree: Tree, layer: Mapping[str, Any]) -> None:
    """Lay ``layer`` over ``tree`` in place, key by key."""
    for key, value in layer.items():
        below = tree.get(key)
        if isinstance(value, Mapping):
            tree[key] = dict(below) if isinstance(below, Mapping) else {}
            merge(tree[key], value)
        else:
            tree[key] = value


def merged(*layers: Mapping[str, Any]) -> Tree:
    """Layers of nested values as one tree, later layers over earlier ones."""
    tree: Tree = {}
    for layer in layers:
        merge(tree, layer)
    return tree


def parse_settings(settings: Iterable[str]) -> Tree:
    """Nested values from ``a.b=c`` words; values are read as YAML.

    >>> parse_settings(["lr.images=10", "steps=5"])
    {'lr': {'images': 10}, 'steps': 5}
    """
    tree: Tree = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key.count(".") > MAX_DEPTH:
            raise ValueError(f"--set {_SHORT.repr(setting)} names no setting; use a name such as lr.images")
        if not equals or not all(key.split(".")):
            raise ValueError(f"--set {setting!r} is not of the form a.b=value, for example --set steps=150")
        merge(tree, nested({key: _read_value(setting, text)}))
    return tree


def _read_value(setting: str, text: str) -> Any:
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"--set {_SHORT.repr(setting)} has no YAML value ({error}); quote it") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(kind: type[Config], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = [str(part) for part in first["loc"]]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = list(_keys_at(kind, place[:-1]))
        near = [name for name in _paths(kind) if name.endswith(f".{place[-1]}")]
        near = near or difflib.get_close_matches(place[-1], known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"unknown setting {key!r}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key} = {first['input']!r}: {message[0].lower()}{message[1:]}"


def _paths(kind: Any, prefix: str = "") -> Iterable[str]:
    """The dotted names of all settings of a configuration."""
    for name, field in kind.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Config):
                yield from _paths(part, f"{prefix}{name}.")
        yield f"{prefix}{name}"


def _keys_at(kind: Any, place: list[str]) -> Iterable[str]:
    """The keys that a part of a configuration takes; none where they are free."""
    for part in place:
        if isinstance(kind, type) and issubclass(kind, Config):
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        else:
            kind = (get_args(kind) or (None,))[-1]  # a mapping's values
    return kind.model_fields.keys() if isinstance(kind, type) and issubclass(kind, Config) else ()


def dump(config: Config) -> str:
    """The configuration as YAML, complete."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def words(config: Config, beside: Config | None = None) -> str:
    """The configuration on one line, as words of a shell that ``--set`` takes; with another, what differs from it.

    >>> from raydd.config.components import GsamConfig
    >>> words(GsamConfig(rho=0.2)), words(GsamConfig(rho=0.2), beside=GsamConfig())
    ('rho=0.2 alpha=0.3', 'rho=0.2')
    """
    usual = {} if beside is None else flat(beside)
    values = {key: value for key, value in flat(config).items() if key not in usual or value != usual[key]}
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for key, value in values.items()
    }
    return " ".join(shlex.quote(f"{key}={text}") for key, text in texts.items())


def flat(tree: Config | Mapping[str, Any], prefix: str = "") -> Tree:
    """The values of a configuration, or of a tree, by dotted name; tuples as lists.

    >>> flat({"lr": {"images": 10}, "span": 2})
    {'lr.images': 10, 'span': 2}
    """
    result: Tree = {}
    for key, value in dict(tree).items():
        if isinstance(value, Config | Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = list(value) if isinstance(value, tuple) else value
    return result


def undotted(tree: Mapping[str, Any], whole: Collection[str] = ()) -> Tree:
    """A tree whose keys may have dots, at any depth, as one whose keys have none.

    Args:
        tree: As a person writes it.
        whole: Keys at the top whose values are left as they are.

    Raises:
        ValueError: A setting is given twice.

    >>> undotted({"lr.images": 10, "experts": {"epochs": 5}, "lr": {"lr": 0}})
    {'lr': {'images': 10, 'lr': 0}, 'experts': {'epochs': 5}}
    """
    result: Tree = {}
    for key, value in tree.items():
        below: Any = value if key in whole or not isinstance(value, Mapping) else undotted(value)
        layer = nested({str(key): below})
        for name in flat(layer):
            if name in flat(result):
                raise ValueError(f"{name} is given twice, with dots and without; leave one out")
        merge(result, layer)
    return result


def nested(values: Mapping[str, Any]) -> Tree:
    """Values by dotted name as a tree: what `flat` undoes.

    >>> nested({"lr.images": 10, "span": 2})
    {'lr': {'images': 10}, 'span': 2}
    """
    tree: Tree = {}
    for key, value in values.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        merge(tree, value)
    return tree


def first_difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str | None:
    """The first setting that differs, with both values, or None."""
    for key, value in now.items():
        other = before.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := first_difference(other, value, f"{prefix}{key}."):
                return inner
        elif value != other:
            return f"{prefix}{key} was {other!r} and is {value!r}"
    return None
