"""JSON that raydd wrote: bounded when it is read, checked against a schema, and compared with its own checksum.

A document says its checksum under the key ``sha256``, a record of a log that of the whole log under ``log_sha256``, and
a text in its first and its last line. Files of older versions have none; they are read with all other checks.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raydd.io.files import AnyPath, write_atomic
from raydd.io.regular_file import read_bytes

MOST_LOG_BYTES = 256 << 20
MOST_NESTED = 1_000_000
"""Lists and mappings of a document; the file of a run has one for every outer step."""
MOST_DEPTH = 64
SEAL, LOG_SEAL = "sha256", "log_sha256"
_TEXT_SEAL = re.compile(r"# sha256 of the lines between: ([0-9a-f]{64})\n")

Tree = dict[str, Any]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, lt=2**53)]


class Document(BaseModel):
    """What is read of a JSON file: of the very types that are named; other keys are let alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


D = TypeVar("D", bound=BaseModel)


def parse(data: bytes | str, *, nan: bool = False) -> Any:
    """The values in JSON.

    Args:
        data: The JSON, as text or in UTF-8.
        nan: Whether numbers may be infinite or NaN.

    Raises:
        ValueError: It is not JSON, too large, nested too deep, or has a key twice.

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
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, float) and not nan and value - value != 0:
                _refuse(str(value))
        level, depth = below, depth + 1
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")


def validate(kind: type[D], tree: Any) -> D:
    """Values as what they have to be.

    Raises:
        ValueError: In one line: the key, and what is wrong there.
    """
    try:
        return kind.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, what = ".".join(map(str, first["loc"]))[:200], first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place or 'all of it'}: {what}") from None


def digest(tree: Any) -> str:
    """The SHA-256 of plain values as JSON holds them, whatever the order of their keys; 64 hex digits."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def sealed(tree: Tree) -> bytes:
    """A document with its checksum, as JSON."""
    tree = {key: value for key, value in tree.items() if key != SEAL}
    plain = json.loads(json.dumps(tree, allow_nan=False))
    return json.dumps({**plain, SEAL: digest(plain)}, indent=1).encode() + b"\n"


def write_document(path: AnyPath, tree: Tree) -> Path:
    """Write a document with its checksum, whole or not at all; returns the path."""
    return write_atomic(path, sealed(tree))


def unsealed(tree: Any) -> Any:
    """A document without its checksum.

    Raises:
        ValueError: It was changed since it was written.
    """
    if not isinstance(tree, dict) or SEAL not in tree:
        return tree
    rest = {key: value for key, value in tree.items() if key != SEAL}
    if tree[SEAL] != digest(rest):
        raise ValueError("it was changed since it was written (checksum)")
    return rest


def opened(data: bytes | str, kind: type[D], *, always_sealed: bool = False) -> tuple[D, Tree]:
    """A document from its JSON, checked: as its kind, and as plain values.

    Args:
        data: The JSON.
        kind: What it has to be.
        always_sealed: Whether no version has written it without a checksum.

    Raises:
        ValueError: In one line, without the file's name.
    """
    tree = parse(data)
    found = validate(kind, tree)  # first, since it says more of what is wrong
    rest: Tree = unsealed(tree)
    if always_sealed and rest is tree:
        raise ValueError("it has no checksum")
    return found, rest


def read_document(path: AnyPath, kind: type[D], remedy: str) -> D:
    """A JSON file as what it has to be.

    Args:
        path: The file.
        kind: What is read of it.
        remedy: What to do about a file that is missing or damaged, after "; ".

    Raises:
        ValueError: In one line: it cannot be read, is no JSON, lacks something or has it wrong, or was changed.
    """
    return read_tree(path, kind, remedy)[0]


def read_tree(path: AnyPath, kind: type[D], remedy: str) -> tuple[D, Tree]:
    """The same, and all of the file's values as they are."""
    try:
        return opened(read_bytes(path), kind)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({_line(error)}); {remedy}") from None


def _line(error: ValueError) -> str:
    return " ".join(str(error).split())[:400]


def log_lines(records: Iterable[Tree]) -> bytes:
    """Records as lines of JSON, each with the checksum of them all."""
    plain = [json.loads(json.dumps(record)) for record in records]
    seal = digest(plain)[:16]
    return "".join(json.dumps({**record, LOG_SEAL: seal}, sort_keys=True) + "\n" for record in plain).encode()


def write_log(path: AnyPath, records: Sequence[Tree]) -> Path:
    """Write records as lines of JSON, whole or not at all; returns the path."""
    return write_atomic(path, log_lines(records))


def read_log(path: AnyPath, kind: type[BaseModel], remedy: str) -> list[Tree]:
    """The records of a log.

    Args:
        path: The file.
        kind: What each must be.
        remedy: What to do about a damaged file, after "; ".

    Raises:
        ValueError: In one line that names the file, and the line: no record, or records were changed.
    """
    try:
        lines = read_bytes(path, MOST_LOG_BYTES).split(b"\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({_line(error)}); {remedy}") from None
    records, seals = list[Tree](), set[Any]()
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, 1):
        try:
            record = parse(line, nan=True)
            validate(kind, record)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no record of a run ({_line(error)}); {remedy}") from None
        seals.add(str(record.pop(LOG_SEAL, "")))
        records.append(record)
    if seals not in (set(), {""}, {digest(records)[:16]}):
        raise ValueError(f"{path} is damaged (it was changed since it was written (checksum)); {remedy}")
    return records


def sealed_text(text: str) -> str:
    """A text of lines with its checksum, in comments before and after it."""
    seal = f"# sha256 of the lines between: {hashlib.sha256(text.encode()).hexdigest()}\n"
    return f"{seal}{text}{seal}"


def unsealed_text(text: str) -> str:
    """A text without its checksum.

    Raises:
        ValueError: It was changed since it was written.
    """
    head, tail = text[: text.find("\n") + 1], text[text.rfind("\n", 0, -1) + 1 :]
    if not (_TEXT_SEAL.fullmatch(head) or _TEXT_SEAL.fullmatch(tail)):
        return text
    between = text[len(head) : len(text) - len(tail)]
    if head + between + tail != sealed_text(between):
        raise ValueError("it was changed since it was written (checksum)")
    return between
