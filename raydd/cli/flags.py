"""The flags of commands, made from the schema: type, default, choices and meaning are written there only."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.models import OptionInfo

from raydd.cli.commands import Command
from raydd.cli.paths import each, existing_buffer, existing_set, fetched
from raydd.config.fields import Setting, settings
from raydd.config.names import TABLES, absolute_dataset, presets
from raydd.config.parsing import Tree, merge, nested, parse_settings
from raydd.config.placement import Where, check_workers

if TYPE_CHECKING:
    from raydd.io.console import Screen

MORE = "More options"
SET = "Any other setting, as key=value, such as steps=150; may be repeated. `raydd settings` lists all."
WINDOW = "Expert epochs where segments start: first:last such as 0:20, or first:last at step 0:last; or auto."
LISTED = 8
"""Names that a flag's help lists at most."""

Function = TypeVar("Function", bound=Callable[..., Any])


def offer(words: Callable[[], Iterable[str]], several: bool = False) -> Callable[[str], list[str]]:
    """Return what completes a flag's value from some words; of several with commas the last one.

    >>> offer(lambda: ["MLP", "LeNet", "AlexNet"], several=True)("MLP,L")
    ['MLP,LeNet']
    """

    def complete(incomplete: str) -> list[str]:
        done, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        known = done.split(",")
        return sorted(f"{done}{comma}{word}" for word in words() if word.startswith(last) and word not in known)

    return complete


def named(kind: str) -> Callable[[str], list[str]]:
    """Return what completes to the names of a table."""
    return offer(lambda: TABLES[kind].names)


@dataclass(frozen=True)
class Flags:
    """Metadata of a command's parameter: it is a tree of settings, each given by a flag of its own.

    Attributes:
        kind: The configuration whose settings they are.
        keys: Dotted names of the settings, by spaces; ``layout=format`` names the flag of ``layout`` ``--format``.
        unlike: Defaults that differ in this command.
        settable: Whether ``--set`` gives any other setting.
        tables: By setting, the table of its names where the command takes fewer.
    """

    kind: type
    keys: str
    unlike: Mapping[str, Any] = field(default_factory=dict)
    settable: bool = True
    tables: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> list[inspect.Parameter]:
        """Return the parameters that the command line fills."""
        parameters = [self._parameter(key, flag) for key, flag in self._named()]
        if self.settable:
            parameters.append(_optional("settings", list[str], typer.Option("--set", metavar="KEY=VALUE", help=SET)))
        return parameters

    def collect(self, values: Mapping[str, Any]) -> Any:
        """Return the flags as a tree, with ``--set`` over them."""
        chosen = {key: value for key, value in self.unlike.items() if value is not None}
        for key, flag in self._named():
            if (value := values[flag]) is not None and value is not False:
                chosen[key] = self._value(key, flag, value)
        tree = nested(chosen)
        merge(tree, parse_settings(values["settings"] or ()) if self.settable else {})
        return tree

    def _named(self) -> list[tuple[str, str]]:
        pairs = (word.partition("=") for word in self.keys.split())
        return [(key, flag or key.rpartition(".")[2]) for key, _, flag in pairs]

    def _setting(self, key: str) -> Setting:
        setting = settings(self.kind)[key]
        return setting._replace(table=self.tables.get(key, setting.table))

    def _parameter(self, key: str, flag: str) -> inspect.Parameter:
        name = f"--{flag.replace('_', '-')}"
        if key == "window":
            return _optional(flag, str, typer.Option(name, help=WINDOW, autocompletion=offer(lambda: ["auto"])))
        setting = self._setting(key)
        words = [*setting.names, *(["none"] if setting.table == "coreset" else [])]
        if setting.table == "network":
            words += ["ConvNetW32", "ConvNetD4", "timm:"]
        completes = offer(lambda: words, setting.several) if words else None
        option = typer.Option(name, help=self._help(setting), autocompletion=completes)
        if setting.kind is bool:
            return _flag(flag, option)
        return _optional(flag, str if setting.several else setting.kind, option)

    def _help(self, setting: Setting) -> str:
        default = self.unlike.get(setting.key, setting.default)
        if setting.several:
            default = ",".join(map(str, default or ()))
        notes = [f"default: {default}"] if default not in (None, "") and setting.kind is not bool else []
        if 0 < len(setting.names) <= LISTED:
            notes.insert(0, f"{'any' if setting.several else 'one'} of {', '.join(setting.names)}")
        return f"{setting.meaning} ({'; '.join(notes)})" if notes else setting.meaning

    def _value(self, key: str, flag: str, value: Any) -> Any:
        if key == "window":
            return window_words(value)
        setting = settings(self.kind)[key]
        if setting.several:
            return whole_numbers(value, f"--{flag}") if setting.kind is int else listed(value)
        return absolute_dataset(value) if setting.table == "dataset" else value


class Json:
    """Metadata of a command's parameter: it is the screen, which ``--json`` turns to one document."""

    def parameters(self) -> list[inspect.Parameter]:
        """Return the parameter that the command line fills."""
        return [_flag("as_json", typer.Option("--json", help="Print one JSON document on stdout."))]

    def collect(self, values: Mapping[str, Any]) -> "Screen":
        """Return the screen."""
        from raydd.io.console import Screen  # not sooner: rich takes a while

        return Screen(values["as_json"])


class Placement(Flags):
    """Metadata of a command's parameter: it is a `Where`, which is checked."""

    def collect(self, values: Mapping[str, Any]) -> Where:
        """Return where the work is done.

        Raises:
            ValueError: See `raydd.config.placement.check_workers`.
        """
        where = Where(**super().collect(values))
        check_workers(where)
        return where


def _flag(name: str, option: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=False, annotation=Annotated[bool, option])


def _optional(name: str, kind: Any, option: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def command(
    app: typer.Typer, example: str, *, main: str = "", name: str | None = None
) -> Callable[[Function], Function]:
    """Add a function to the command line.

    A parameter whose metadata is a `Flags` becomes a flag a setting. The flags that matter most come first in the help;
    the others follow under a title of their own.

    Args:
        app: Where the command is added.
        example: A command line that the help ends with.
        main: The parameters that matter most, by spaces; none leaves all flags in one list.
        name: The command's name; the function's by default.
    """

    def register(function: Function) -> Function:
        makers: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            metadata = getattr(parameter.annotation, "__metadata__", ())
            group = next((data for data in metadata if isinstance(data, Flags | Json)), None)
            makers[parameter.name] = group.collect if group else _checked(parameter)
            # Without its callback, so that reading the words of a command line looks at no file.
            parameters += group.parameters() if group else [_changed(parameter, callback=None)]

        def call(**values: Any) -> Any:
            return function(**{key: make(values) for key, make in makers.items()})

        call.__dict__["__signature__"] = inspect.Signature(_ordered(parameters, main.split()))
        call.__name__, call.__doc__ = function.__name__, function.__doc__
        app.command(name, cls=Command, epilog=f"Example: {example}")(call)
        return function

    return register


def _changed(parameter: inspect.Parameter, **attributes: Any) -> inspect.Parameter:
    """Return a parameter whose option or argument has other attributes."""
    data = copy(parameter.annotation.__metadata__[0])
    vars(data).update(attributes)
    parameter = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    return parameter.replace(annotation=Annotated[parameter.annotation.__origin__, data])


def _checked(parameter: inspect.Parameter) -> Callable[[Mapping[str, Any]], Any]:
    """Return what takes a parameter's value through its callback."""
    check = parameter.annotation.__metadata__[0].callback or (lambda value: value)
    return lambda values: check(values[parameter.name])


def _ordered(parameters: list[inspect.Parameter], main: list[str]) -> list[inspect.Parameter]:
    """Put the main flags first, all others in a panel of their own, and ``--json`` last."""
    order = {name: place for place, name in enumerate(main)} | {"as_json": len(parameters) + 1}
    assert set(main) <= {parameter.name for parameter in parameters}, main
    parameters = sorted(parameters, key=lambda parameter: order.get(parameter.name, len(parameters)))
    hidden = {each.name for each in parameters if isinstance(each.annotation.__metadata__[0], OptionInfo)} - {*main}
    in_panel = hidden if main else set()
    return [_changed(each, rich_help_panel=MORE) if each.name in in_panel else each for each in parameters]


def listed(text: str) -> tuple[str, ...]:
    """Return words with commas; no words of ``none``.

    >>> listed("MLP, LeNet"), listed("none")
    (('MLP', 'LeNet'), ())
    """
    return () if text.strip() == "none" else tuple(word.strip() for word in text.split(",") if word.strip())


def window_words(text: str) -> Tree:
    """Return the settings that ``--window`` means.

    Raises:
        ValueError: If it is neither auto nor two or three epochs.

    >>> window_words("0:4:20")
    {'auto': False, 'low': 0, 'current': 4, 'high': 20}
    """
    if text == "auto":
        return {"auto": True}
    epochs = text.split(":")
    if len(epochs) not in (2, 3) or not all(epoch.isdecimal() for epoch in epochs):
        raise ValueError(f"--window {text!r}: use auto, T-:T+ such as 0:20, or T-:T:T+ such as 0:4:20")
    low, *current, high = (int(epoch) for epoch in epochs)
    return {"auto": False, "low": low, "current": current[0] if current else None, "high": high}


def whole_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Return the whole numbers of words with commas.

    Args:
        text: The words.
        flag: The flag that gave them.

    Raises:
        ValueError: A word is no whole number.

    >>> whole_numbers("6, 25", "--epochs"), whole_numbers("", "--epochs")
    ((6, 25), ())
    """
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ValueError(f"{flag} {text!r}: give whole numbers with commas, such as 6,25") from None


Output = Annotated["Screen", Json()]
Device = Annotated[Where, Placement(Where, "device", settable=False)]
Machine = Annotated[Where, Placement(Where, "num_workers address device max_wait", settable=False)]
SharedMachine = Annotated[
    Where, Placement(Where, "num_workers gpus_per_worker address device max_wait", settable=False)
]
TrainingMachine = Annotated[
    Where, Placement(Where, "num_workers gpus_per_worker address device max_wait max_failed", settable=False)
]
_BUFFER = "Buffer of experts, a folder or a URI; by default a cached one, trained first if there is none."
Buffer = Annotated[str | None, typer.Option(help=_BUFFER, callback=existing_buffer)]
_PRESET = (
    "Shipped settings such as cifar10/mtt, or a YAML file or its URI; by default those of the method and data set."
)
Preset = Annotated[str | None, typer.Option(help=_PRESET, autocompletion=offer(presets), callback=fetched)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore cached results and train again.")]
_SETS = "synset.arrow files, run folders or their URIs, or other projects' files."
Sets = Annotated[list[str], typer.Argument(metavar="SYNSET...", help=_SETS, callback=each(existing_set))]
