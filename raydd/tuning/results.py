"""What a search found: a record of each trial as rows of a file, and the winner."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydd.io.files import AnyPath, atomic_path
from raydd.tuning.result_table import State as State, read_rows, with_seal
from raydd.tuning.space import Space

SETTINGS = "settings."
_ABSENT = object()


@dataclass(frozen=True)
class Record:
    """One trial of a search.

    Attributes:
        number: Its place in the search, from 0.
        state: ``pruned`` was stopped early by the scheduler; ``unfinished`` still runs, or was cut off.
        values: The searched settings by dotted key, those of active domains only.
        metrics: What it reached: ``accuracy`` on the validation split in [0, 1], ``seconds``, and others; empty when
            nothing was reported.
        step: The outer step it came to.
        reports: (index or step, best accuracy so far) of each of its reports, in order.
        error: Why it failed, in one line; empty for the other states.
    """

    number: int
    state: State
    values: dict[str, Any]
    metrics: dict[str, float]
    step: int
    reports: tuple[tuple[int, float], ...]
    error: str


def accuracy_of(record: Record) -> float | None:
    """The best accuracy on the validation split that a trial is known to have reached; None where there is none."""
    known = [record.metrics["accuracy"]] if "accuracy" in record.metrics else [score for _, score in record.reports]
    return max((score for score in known if math.isfinite(score)), default=None)


def shared_reason(records: Sequence[Record]) -> str:
    """Why all trials of a search have failed, in one line: the reason that most of them have."""
    reason, count = Counter(record.error for record in records).most_common(1)[0]
    share = "" if count == len(records) else f", {count} of them for this reason"
    return (
        f"all {len(records)} trials failed{share}: {reason or 'unknown'}; mend the space and name another --out, since "
        "--resume runs no failed trial again"
    )


def text_of(value: Any) -> str:
    """A value as text: words as they are, all else as compact JSON.

    >>> text_of("abs"), text_of([0.1, None])
    ('abs', '[0.1,null]')
    """
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def rows_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as plain rows with equal keys, by trial number; what a trial does not have is None.

    Keys are trial, state, accuracy, seconds, any further metrics, step, error, and ``settings.<key>`` for each searched
    setting. A setting's values are all whole numbers, numbers, truth values or words; where records mix kinds, or have
    lists or nulls, they are text as of `text_of`, so that a value of null differs from a setting not searched.
    """
    ordered = sorted(records, key=lambda record: record.number)
    extra = dict.fromkeys(name for record in ordered for name in record.metrics if name not in ("accuracy", "seconds"))
    columns: dict[str, list[Any]] = {
        "trial": [record.number for record in ordered],
        "state": [record.state for record in ordered],
        "accuracy": [accuracy_of(record) for record in ordered],
    }
    for name in ("seconds", *extra):
        columns[name] = [_finite(record.metrics.get(name)) for record in ordered]
    columns["step"] = [record.step for record in ordered]
    columns["error"] = [record.error for record in ordered]
    for key in dict.fromkeys(key for record in ordered for key in record.values):
        columns[SETTINGS + key] = _one_kind([record.values.get(key, _ABSENT) for record in ordered])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _one_kind(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not _ABSENT}
    if kinds == {int, float}:
        return [None if value is _ABSENT else float(value) for value in values]
    if len(kinds) == 1 and kinds <= {bool, int, float, str}:
        return [None if value is _ABSENT else value for value in values]
    return [None if value is _ABSENT else text_of(value) for value in values]


def save_results(records: Sequence[Record], path: AnyPath) -> Path:
    """Write the rows of `rows_of` as a Parquet file, whole or not at all.

    Args:
        records: In any order; there may be none.
        path: Where to.

    Returns:
        The path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rows_of(records)
    fixed = {"trial": pa.int64(), "state": pa.string(), "accuracy": pa.float64(), "seconds": pa.float64()}
    fixed |= {"step": pa.int64(), "error": pa.string()}
    columns = {}
    for key in rows[0] if rows else fixed:
        kind = fixed.get(key, None if key.startswith(SETTINGS) else pa.float64())
        columns[key] = pa.array([row[key] for row in rows], kind)
    with atomic_path(path) as temporary:
        pq.write_table(with_seal(pa.table(columns)), temporary)
    return Path(path)


def load_results(path: AnyPath) -> list[dict[str, Any]]:
    """The rows of a file of `save_results`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or is not one of a search.
    """
    return read_rows(path)


def winner(records: Sequence[Record], directions: Mapping[str, str]) -> Record | None:
    """The trial of the best accuracy among the complete ones.

    Where none is complete, among the pruned and unfinished ones that have reported. With several metrics too
    it is accuracy that decides, and of equal ones the fewer seconds; `front` has the others. Then the lower number
    wins.

    Args:
        records: In any order.
        directions: By metric, ``max`` or ``min``.
    """
    sign = -1 if directions.get("accuracy") == "min" else 1
    for states in (("complete",), ("pruned", "unfinished")):
        scored = [
            (record, score) for record in in_state(records, *states) if (score := accuracy_of(record)) is not None
        ]
        if scored:
            cheap = "seconds" in directions
            # max keeps the first, which has the lower number
            return max(scored, key=lambda pair: (sign * pair[1], -pair[0].metrics.get("seconds", 0) * cheap))[0]
    return None


def front(records: Sequence[Record], directions: Mapping[str, str]) -> list[Record]:
    """The complete trials that no other one beats in one metric without losing in another, by number.

    Args:
        records: In any order; those that lack one of the metrics are left out.
        directions: By metric, ``max`` or ``min``.
    """
    gains = []
    for record in in_state(records, "complete"):
        known = {**record.metrics, "accuracy": accuracy_of(record)}
        measured = [value for name in directions if (value := _finite(known.get(name))) is not None]
        if len(measured) == len(directions):
            signs = [-1 if direction == "min" else 1 for direction in directions.values()]
            gains.append((record, tuple(sign * value for sign, value in zip(signs, measured, strict=True))))
    return [record for record, gain in gains if not any(_beats(other, gain) for _, other in gains)]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def in_state(records: Sequence[Record], *states: State) -> list[Record]:
    """Trials of some states, by number."""
    return sorted((record for record in records if record.state in states), key=lambda record: record.number)


def scales(space: Space) -> dict[str, str]:
    """By searched setting: choice, log or linear, as the figures of `raydd.figures.search` lay out its axis."""
    named = {True: "log", False: "linear"}
    return {key: named[domain.log] if domain.choice is None else "choice" for key, domain in space.domains.items()}
