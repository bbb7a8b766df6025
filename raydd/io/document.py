"""JSON files of raydd: bounded when they are read, checked against a schema and their own checksum.

A document holds its checksum under the key ``sha256``, each record of a log that of the whole log under
``log_sha256``, and a text in its first and its last line. Files of older versions have none; they are read with all
other checks.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from raydd.io.bounded_file import read_bytes
from raydd.io.files import AnyPath, write_atomic

MOST_LOG_BYTES = 256 << 20
MOST_NESTED = 1_000_000
"""Lists and mappings of a document; the file of a run has one for every outer step."""
MOST_DEPTH = 64
CHECKSUM, LOG_CHECKSUM = "sha256", "log_sha256"
_TEXT_CHECKSUM = re.compile(r"# sha256 of the lines between: ([0-9a-f]{64})\n")
_BEFORE_CHECKSUM = f', "{CHECKSUM}": "'.encode()
_CHANGED = "it was changed since it was written (checksum)"

Tree = dict[str, Any]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, lt=2**53)]


class Document(BaseModel):
    """The keys of a JSON file that are read, of exactly the declared types; other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


D = TypeVar("D")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
_encode = json.JSONEncoder(sort_keys=True).encode


def parse(data: bytes | str, *, nan: bool = False) -> Any:
    """Parse JSON, as text or in UTF-8; with ``nan``, numbers may be infinite or NaN.

    >>> parse('{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    if text.count("[") + text.count("{") > MOST_NESTED:
        raise ValueError(f"it has more than {MOST_NESTED:,} lists and mappings")
    try:
        tree = json.loads(text, object_pairs_hook=_unique, parse_constant=None if nan else _refuse)
        _check_tree(tree, nan)
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from None
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> Tree:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice[:80]!r} twice")
    return tree


def _refuse(constant: str) -> Any:
    raise ValueError(f"it has the number {constant}, and numbers must be finite")


def _check_tree(tree: Any, nan: bool) -> None:
    level, depth = [tree], 0
    while level:
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                below += value.values()
            elif kind is list:
                below += value
            elif kind is float and not nan and value - value != 0:
                _refuse(str(value))
        level, depth = below, depth + 1
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")


def one_line(error: Exception) -> str:
    """Return an error's message in one line of bounded length."""
    return " ".join(str(error).split())[:400]


def validate(kind: type[D], tree: Any) -> D:
    """Return plain values as a model or a dataclass of pydantic."""
    return _validate(kind, json.dumps(tree))


def _validate(kind: type[D], data: bytes | str) -> D:
    try:
        model: D = _adapter(kind).validate_json(data)
        return model
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, what = ".".join(map(str, first["loc"]))[:200], first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{key or 'all of it'}: {what}") from None


def digest(tree: Any) -> str:
    """Return the SHA-256 of plain values as JSON, whatever the order of their keys; 64 hex digits."""
    return hashlib.sha256(_encode(tree).encode()).hexdigest()


def dump_document(tree: Tree, *, indent: int | None = 1) -> bytes:
    """Return a document with its checksum, as JSON; without ``indent`` it is one line, which is faster to check."""
    plain = json.loads(json.dumps(_rest(tree), allow_nan=False, sort_keys=indent is None))
    return json.dumps({**plain, CHECKSUM: digest(plain)}, indent=indent).encode() + b"\n"


def write_document(path: AnyPath, tree: Tree, *, indent: int | None = 1) -> Path:
    """Write a document as `dump_document` returns it, whole or not at all; return the path."""
    return write_atomic(path, dump_document(tree, indent=indent))


def _rest(tree: Tree) -> Tree:
    return {key: value for key, value in tree.items() if key != CHECKSUM}


def without_checksum(tree: Any) -> Any:
    """Return a document without its checksum."""
    if not isinstance(tree, dict) or CHECKSUM not in tree:
        return tree
    rest = _rest(tree)
    if tree[CHECKSUM] != digest(rest):
        raise ValueError(_CHANGED)
    return rest


def _checked_line(data: bytes) -> bool:
    """Return whether a document is one line that ends with the checksum of its own bytes.

    Its values are in the order and form that `digest` gives them, so they need not be encoded again to be checked.
    """
    head, _, tail = data.rpartition(_BEFORE_CHECKSUM)
    return tail == f'{hashlib.sha256(head + b"}").hexdigest()}"}}\n'.encode()


def parse_document(data: bytes, kind: type[D], *, always_sealed: bool = False) -> tuple[D, Tree]:
    """Parse and check a document; return it as a model, and its plain values.

    Args:
        data: The JSON.
        kind: The model.
        always_sealed: No version has written such a document without a checksum.
    """
    tree = parse(data)
    model = _validate(kind, data)  # first, since it says more of what is wrong
    rest: Tree = _rest(tree) if _checked_line(data) else without_checksum(tree)
    if always_sealed and rest is tree:
        raise ValueError("it has no checksum")
    return model, rest


def read_document(path: AnyPath, kind: type[D], remedy: str) -> D:
    """Read and check a JSON file.

    Args:
        path: The file.
        kind: The model of its values.
        remedy: What to do about a missing or damaged file, after "; ".
    """
    return read_tree(path, kind, remedy)[0]


def read_tree(path: AnyPath, kind: type[D], remedy: str) -> tuple[D, Tree]:
    """Read and check a JSON file as `read_document` does; return its plain values, too."""
    with _errors(path, remedy):
        return parse_document(read_bytes(path), kind)


@contextmanager
def _errors(path: AnyPath, remedy: str) -> Iterator[None]:
    """Name the file and the remedy in what is raised."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({one_line(error)}); {remedy}") from None


def write_log(path: AnyPath, records: Sequence[Tree]) -> Path:
    """Write records as lines of JSON, each with the checksum of all; whole or not at all. Return the path."""
    plain = [json.loads(json.dumps(record)) for record in records]
    checksum = digest(plain)[:16]
    lines = (json.dumps({**record, LOG_CHECKSUM: checksum}, sort_keys=True) + "\n" for record in plain)
    return write_atomic(path, "".join(lines).encode())


def read_log(path: AnyPath, kind: type[BaseModel], remedy: str) -> list[Tree]:
    """Read and check the records of a log.

    Args:
        path: The file.
        kind: The model of each record.
        remedy: What to do about a damaged file, after "; ".
    """
    with _errors(path, remedy):
        lines = read_bytes(path, MOST_LOG_BYTES).split(b"\n")
    records, checksums = list[Tree](), set[Any]()
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, 1):
        try:
            record = parse(line, nan=True)
            validate(kind, record)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no record of a run ({one_line(error)}); {remedy}") from None
        checksums.add(str(record.pop(LOG_CHECKSUM, "")))
        records.append(record)
    if checksums not in (set(), {""}, {digest(records)[:16]}):
        raise ValueError(f"{path} is damaged ({_CHANGED}); {remedy}")
    return records


def add_text_checksum(text: str) -> str:
    """Return a text of lines with its checksum, in comments before and after it."""
    line = f"# sha256 of the lines between: {hashlib.sha256(text.encode()).hexdigest()}\n"
    return f"{line}{text}{line}"


def remove_text_checksum(text: str) -> str:
    """Return a text without its checksum."""
    head, tail = text[: text.find("\n") + 1], text[text.rfind("\n", 0, -1) + 1 :]
    if not (_TEXT_CHECKSUM.fullmatch(head) or _TEXT_CHECKSUM.fullmatch(tail)):
        return text
    between = text[len(head) : len(text) - len(tail)]
    if head + between + tail != add_text_checksum(between):
        raise ValueError(_CHANGED)
    return between
