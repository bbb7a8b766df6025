"""Results of a search: a record per trial, the Parquet file of all trials, the best trial and the Pareto front."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raydd.io.bounded_file import open_regular
from raydd.io.document import CHECKSUM, MOST_LOG_BYTES, Document, Finite, Whole, digest, validate
from raydd.io.files import AnyPath, atomic_path
from raydd.tuning.space import Space

if TYPE_CHECKING:
    import pyarrow as pa

State = Literal["complete", "pruned", "failed", "unfinished"]
SETTINGS = "settings."
MOST_CELLS = 5_000_000
_ABSENT = object()


@dataclass(frozen=True)
class Record:
    """One trial of a search."""

    number: int
    state: State  # `unfinished` still runs or was interrupted
    values: dict[str, Any]  # the searched settings whose condition holds, by dotted name
    metrics: dict[str, float]  # accuracy in [0, 1], seconds, and others; empty before the first report
    step: int  # the last that was reported
    reports: tuple[tuple[int, float], ...]  # (index or step, best accuracy so far)
    error: str  # in one line; empty unless it failed


def accuracy_of(record: Record) -> float | None:
    """Return a trial's best reported accuracy on the validation split; None where there is none."""
    known = [record.metrics["accuracy"]] if "accuracy" in record.metrics else [score for _, score in record.reports]
    return max((score for score in known if math.isfinite(score)), default=None)


class AllTrialsFailed(RuntimeError):
    """All trials of a search failed; ``reason`` is the most frequent one, in one line."""

    def __init__(self, records: Sequence[Record]) -> None:
        reason, count = Counter(record.error for record in records).most_common(1)[0]
        share = "" if count == len(records) else f", {count} of them for this reason"
        self.reason = f"all {len(records)} trials failed{share}: {reason or 'unknown'}"
        remedy = "correct the space and use another --out, since --resume does not repeat failed trials"
        super().__init__(f"{self.reason}; {remedy}")


def text_of(value: Any) -> str:
    """Return a value as text: strings unchanged, everything else as compact JSON.

    >>> text_of("abs"), text_of([0.1, None])
    ('abs', '[0.1,null]')
    """
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def values_text(values: Mapping[str, Any]) -> str:
    """Return settings in words, numbers by three digits.

    >>> values_text({"lr.images": 19.5933, "window.high": 3, "intermediate": "equal"})
    'lr.images 19.6, window.high 3, intermediate equal'
    """
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {text_of(value)}" for key, value in values.items()
    )


def rows_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return records as plain rows with equal keys, by trial number; missing values are None.

    Keys are trial, state, accuracy, seconds, further metrics, step, error, and ``settings.<key>`` of each searched
    setting. The values of a setting are all integers, numbers, booleans or strings. Where trials mix kinds, or have
    lists or nulls, they are text as of `text_of`, so that a null differs from a setting that was not searched.
    """
    ordered = sorted(records, key=lambda record: record.number)
    metrics = dict.fromkeys(["seconds", *(name for record in ordered for name in record.metrics if name != "accuracy")])
    columns: dict[str, list[Any]] = {
        "trial": [record.number for record in ordered],
        "state": [record.state for record in ordered],
        "accuracy": [accuracy_of(record) for record in ordered],
        **{name: [_finite(record.metrics.get(name)) for record in ordered] for name in metrics},
        "step": [record.step for record in ordered],
        "error": [record.error for record in ordered],
    }
    for key in dict.fromkeys(key for record in ordered for key in record.values):
        columns[SETTINGS + key] = _one_kind([record.values.get(key, _ABSENT) for record in ordered])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _one_kind(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not _ABSENT}
    convert: Any = text_of
    if kinds == {int, float}:
        convert = float
    elif len(kinds) == 1 and kinds <= {bool, int, float, str}:
        (convert,) = kinds
    return [None if value is _ABSENT else convert(value) for value in values]


def save_results(records: Sequence[Record], path: AnyPath) -> Path:
    """Write the rows of `rows_of` as a Parquet file, atomically, and return its path."""
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


def with_seal(table: "pa.Table") -> "pa.Table":
    """Return a table with the checksum of its rows in its metadata."""
    return table.replace_schema_metadata({CHECKSUM: digest(table.to_pylist())})


class _Row(Document, extra="allow"):
    """The schema of the columns that are read by name."""

    trial: Whole
    state: State
    accuracy: Finite | None
    seconds: Finite | None = None
    step: Whole = 0
    error: str = ""


def load_results(path: AnyPath) -> list[dict[str, Any]]:
    """Return the rows of a file of `save_results`."""
    try:
        with open_regular(path) as file:
            table = _read_table(file)
        rows: list[dict[str, Any]] = table.to_pylist()
        if of_search := {"trial", "state", "accuracy"} <= {*table.column_names}:
            for row in rows:
                validate(_Row, row)
            seal = (table.schema.metadata or {}).get(CHECKSUM.encode())
            if seal is not None and seal != digest(rows).encode():
                raise ValueError("it was changed since it was written (checksum)")
    except FileNotFoundError:
        raise
    except Exception as error:  # Arrow raises many types
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"{path} cannot be read ({reason}); raydd tune --resume writes it again") from None
    if not of_search:
        raise ValueError(f"{path} has no columns trial, state and accuracy; use the results.parquet of a search")
    return rows


def _read_table(file: Any) -> "pa.Table":
    """Read a table, unless it is larger than that of any search."""
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    rows, columns = parquet.metadata.num_rows, parquet.metadata.num_columns
    size = sum(parquet.metadata.row_group(index).total_byte_size for index in range(parquet.metadata.num_row_groups))
    if rows * columns > MOST_CELLS or size > MOST_LOG_BYTES:
        raise ValueError(f"it has {rows} rows of {columns} columns")
    return parquet.read()


def winner(records: Sequence[Record], directions: Mapping[str, str]) -> Record | None:
    """Return the complete trial with the best accuracy; without a complete one, a pruned or unfinished one.

    Accuracy decides also with several metrics; of equal trials that with fewer seconds wins, then the lower number.
    `front` returns the others.
    """
    sign, timed = -1 if directions.get("accuracy") == "min" else 1, "seconds" in directions
    for states in (("complete",), ("pruned", "unfinished")):
        scored = [
            (record, score) for record in in_state(records, *states) if (score := accuracy_of(record)) is not None
        ]
        if scored:  # max returns the first of equal trials, which has the lower number
            return max(scored, key=lambda pair: (sign * pair[1], -pair[0].metrics.get("seconds", 0) * timed))[0]
    return None


def front(records: Sequence[Record], directions: Mapping[str, str]) -> list[Record]:
    """Return the complete trials that no other trial beats in one metric without a loss in another, by number."""
    gains = []
    for record in in_state(records, "complete"):
        known = {**record.metrics, "accuracy": accuracy_of(record)}
        values = [_finite(known.get(name)) for name in directions]
        if None not in values:
            signs = [-1 if direction == "min" else 1 for direction in directions.values()]
            gains.append((record, tuple(sign * (value or 0.0) for sign, value in zip(signs, values, strict=True))))
    return [record for record, gain in gains if not any(_beats(other, gain) for _, other in gains)]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def in_state(records: Sequence[Record], *states: State) -> list[Record]:
    """Return the trials in some states, by number."""
    return sorted((record for record in records if record.state in states), key=lambda record: record.number)


def scales(space: Space) -> dict[str, str]:
    """Return the scale of each searched setting's axis: ``choice``, ``log`` or ``linear``."""
    names = {True: "log", False: "linear"}
    return {key: names[domain.log] if domain.choice is None else "choice" for key, domain in space.domains.items()}
