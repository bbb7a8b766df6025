"""The Parquet file of a search's results: rows of a schema, with a checksum, of a size that a search can have."""

from typing import TYPE_CHECKING, Any, Literal

from raydd.io.bounded_file import open_regular
from raydd.io.document import CHECKSUM, MOST_LOG_BYTES, Document, Finite, Whole, digest, validate
from raydd.io.files import AnyPath

if TYPE_CHECKING:
    import pyarrow as pa

State = Literal["complete", "pruned", "failed", "unfinished"]
MOST_CELLS = 5_000_000


def with_seal(table: "pa.Table") -> "pa.Table":
    """A table that says the checksum of its rows."""
    return table.replace_schema_metadata({CHECKSUM: digest(table.to_pylist())})


def read_rows(path: AnyPath) -> list[dict[str, Any]]:
    """The rows of a file of results.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, is of something else, or was changed.
    """
    try:
        with open_regular(path) as file:
            table = _table(file)
        rows: list[dict[str, Any]] = table.to_pylist()
        said = (table.schema.metadata or {}).get(CHECKSUM.encode())
        if {"trial", "state", "accuracy"} <= {*table.column_names}:
            for row in rows:
                validate(_Row, row)
        else:
            raise _NoResults
        if said is not None and said != digest(rows).encode():
            raise ValueError("it was changed since it was written (checksum)")
    except FileNotFoundError:
        raise
    except _NoResults:
        raise ValueError(
            f"{path} has no columns trial, state and accuracy; give the results.parquet of a search"
        ) from None
    except Exception as error:  # Arrow's are of many types
        reason = " ".join(str(error).split())[:400]
        raise ValueError(f"{path} cannot be read ({reason}); raydd tune --resume writes it anew") from None
    return rows


class _NoResults(Exception):
    """A table of something else."""


class _Row(Document, extra="allow"):
    """A trial, as far as it is read by name."""

    trial: Whole
    state: State
    accuracy: Finite | None
    seconds: Finite | None = None
    step: Whole = 0
    error: str = ""


def _table(file: Any) -> "pa.Table":
    """The table in a file, where it is of a size that a search can have."""
    import pyarrow.parquet as pq

    found = pq.ParquetFile(file)
    groups = [found.metadata.row_group(index) for index in range(found.metadata.num_row_groups)]
    cells = found.metadata.num_rows * found.metadata.num_columns
    if cells > MOST_CELLS or sum(group.total_byte_size for group in groups) > MOST_LOG_BYTES:
        raise ValueError(f"it has {found.metadata.num_rows} rows of {found.metadata.num_columns} columns")
    return found.read()
