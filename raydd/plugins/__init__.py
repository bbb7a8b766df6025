"""Rows that other packages add: methods, networks, data sets, protocols, search spaces and architecture spaces.

A package names a module in the entry point group ``raydd.plugins``::

    [project.entry-points."raydd.plugins"]
    mine = "mine.plugin"

The module holds dictionaries of rows by name, called as in `TABLES`. Every process imports it on the first lookup of a
name that raydd itself does not have: the command line, Ray's workers, trials and evaluators alike.
"""

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from traceback import walk_tb
from types import ModuleType
from typing import Any, Self, TypeVar

GROUP = "raydd.plugins"
TABLES = ("METHODS", "NETWORKS", "DATASETS", "PROTOCOLS", "SPACES", "ARCHITECTURES")
"""What a plugin may hold. ``SPACES`` are those of ``raydd tune``, ``ARCHITECTURES`` those of ``raydd nas``."""

Row = TypeVar("Row")
_NAME = re.compile(r"\w[\w.+-]*")
_FRAME = re.compile(r'File "([^"]+)", line \d+')
_RAYDD = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_LOADING = threading.RLock()
_importing: set[str] = set()


@cache
def installed() -> tuple[EntryPoint, ...]:
    """Return the plugins of this environment by name, without importing them."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)))


class Table(dict[str, Row]):
    """Rows by name. The first lookup of a name that is missing adds the rows of the plugins.

    Args:
        title: One of `TABLES`.
        kind: The type of a row.
        rows: The rows of raydd itself.

    >>> table = Table("NETWORKS", int, {"MLP": 1})
    >>> table["MLP"], table.get("Unknown", 0), "Unknown" in table
    (1, 0, False)
    """

    def __init__(self, title: str, kind: type[Any], rows: Mapping[str, Row] | Iterable[tuple[str, Row]] = ()) -> None:
        super().__init__(rows)
        self.title, self.kind, self._complete = title, kind, False
        self.origins: dict[str, str] = {}  # the plugins of rows, in words

    def load(self) -> Self:
        """Add the rows of the plugins, once a process, and return the table.

        Raises:
            ValueError: A plugin cannot be imported, or one of its rows cannot be added. The line names the plugin.
        """
        if self._complete:
            return self
        with _LOADING:
            if not _importing:  # a plugin that looks up a name while it is imported sees the rows there are
                added: dict[str, Row] = {}
                for entry in installed():
                    for name, row in self._rows(entry):
                        if super().__contains__(name) or name in added:
                            raise ValueError(f"{_origin(entry)}: {self.title}[{name!r}] exists already; rename the row")
                        added[name], self.origins[name] = row, _origin(entry)
                self.update(added)
                self._complete = True
        return self

    def _rows(self, entry: EntryPoint) -> Iterator[tuple[str, Row]]:
        """Yield the rows of a plugin for this table, checked."""
        rows = getattr(_imported(entry), self.title, {})
        if isinstance(rows, Table):  # raydd's own, which the plugin imports
            return
        if not isinstance(rows, Mapping):
            raise ValueError(f"{_origin(entry)}: {self.title} is a {type(rows).__name__}; use a dictionary of rows")
        for name, row in rows.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{_origin(entry)}: {self.title} has the name {name!r}; use letters, digits and _.+-")
            if not isinstance(row, self.kind):
                wanted = getattr(self.kind, "__name__", self.kind)
                raise ValueError(f"{_origin(entry)}: {self.title}[{name!r}] is a {type(row).__name__}; use a {wanted}")
            if getattr(row, "name", name) != name:
                raise ValueError(f"{_origin(entry)}: {self.title}[{name!r}] is named {row.name!r}; use one name")
            yield name, row

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or dict.__contains__(self.load(), name)

    def __missing__(self, name: str) -> Row:
        if dict.__contains__(self.load(), name):
            return self[name]
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the row of a name, or the default."""
        return super().get(name, default) if name in self else default


def names(title: str) -> list[str]:
    """Return the names that plugins add to a table, such as ``METHODS``, without the module of the table."""
    with _LOADING:
        tables = [getattr(_imported(entry), title, {}) for entry in installed()]
    return [name for rows in tables if not isinstance(rows, Table) for name in rows]


def origin_of(error: BaseException | None) -> str | None:
    """Return the plugin whose code raised an error, such as ``plugin mine (mine.plugin)``; None without one.

    Errors of Ray's workers and causes count too. A refusal by raydd is its own, even if a plugin called raydd.
    """
    homes = {entry: _home(entry.module) for entry in installed()}
    while error is not None:
        files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
        for file in reversed(files + _FRAME.findall(getattr(error, "traceback_str", None) or "")):
            if entry := next((entry for entry, home in homes.items() if home and file.startswith(home)), None):
                return _origin(entry)
            if isinstance(error, ValueError) and file.startswith(_RAYDD):
                break
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _home(module: str) -> str | None:
    """Return the folder of a loaded module's package, or the file of a module without one."""
    package = sys.modules.get(module.partition(".")[0])
    folders = [os.path.join(path, "") for path in getattr(package, "__path__", ())]
    return folders[0] if folders else getattr(package, "__file__", None)


def _imported(entry: EntryPoint) -> ModuleType:
    """Return the module of a plugin."""
    _importing.add(entry.name)
    try:
        module = entry.load()
    except Exception as error:  # of any type: it is the plugin's own code
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{_origin(entry)} cannot be imported ({reason}); repair it{_remedy(entry)}") from error
    finally:
        _importing.discard(entry.name)
    if not any(hasattr(module, title) for title in TABLES):
        raise ValueError(f"{_origin(entry)} has no rows; give it one of the dictionaries {', '.join(TABLES)}")
    return module  # type: ignore[no-any-return]


def _origin(entry: EntryPoint) -> str:
    return f"plugin {entry.name} ({entry.value})"


def _remedy(entry: EntryPoint) -> str:
    return f", or uninstall the package {entry.dist.name}" if entry.dist is not None else ""
