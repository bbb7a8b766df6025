"""How commands show their results: tables and lines for a person, or one JSON document."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from raydd.data.score_record import Missing, Score
    from raydd.io.console import Screen

T = TypeVar("T")


def lines_of(document: Mapping[str, Any]) -> list[str]:
    """Return a document as lines, one a key."""
    return [f"{key:14} {value}" for key, value in document.items()]


def files_of(outputs: Mapping[str, str]) -> list[str]:
    """Return the lines that name what was written."""
    return [f"{name}: {path}" for name, path in outputs.items()]


def show(
    screen: "Screen", document: dict[str, Any], lines: Iterable[str] | None = None, tables: Iterable[Any] = ()
) -> None:
    """Show a result: its JSON document, or tables and lines for a person, by default one a key."""

    def write(console: Any) -> None:
        for table in tables:
            console.print(table)
        if text := "\n".join(lines_of(document) if lines is None else lines):
            console.print(text, markup=False)

    screen.result(document, write)


def show_scores(
    screen: "Screen",
    scores: "list[Score]",
    outputs: dict[str, str],
    report: dict[str, Any] | None = None,
    last: str = "",
) -> None:
    """Show scores as tables, and where they were written.

    Args:
        screen: Where.
        scores: The records.
        outputs: Files by what they are.
        report: What else there is to say of the scores, see `raydd.api.evaluate.report`.
        last: A line for a person at the end.
    """
    from raydd.data.score_record import Comparison, RobustScore, table_rows
    from raydd.figures.cells import rows_table
    from raydd.figures.score_tables import comparison_table, matrix_table, robust_rows
    from raydd.io.document import validate

    rows, more = table_rows(scores), report or {}
    tables = [matrix_table(rows)]
    if robust := more.get("robust"):
        tables += [matrix_table([score for score in scores if not score.in_table], "trainings of the robust scores")]
        scored = robust_rows([validate(RobustScore, score) for score in robust])
        tables.append(rows_table("robust scores in %; of hlr less is better, of ior, lrs and ars more", scored))
    if comparisons := more.get("comparisons"):
        tables.append(comparison_table([validate(Comparison, test) for test in comparisons]))
    show(
        screen,
        {"scores": [score.to_document() for score in scores], "outputs": outputs} | more,
        [*files_of(outputs), *([last] if last else [])],
        tables,
    )


def with_missing(call: Callable[[], T]) -> "tuple[T, tuple[Missing, ...]]":
    """Return what a call returns, and the trainings that its result lacks."""
    from raydd.evaluation.failures import MissingTrainings

    try:
        return call(), ()
    except MissingTrainings as error:
        result: T = error.result
        return result, error.missing


def end(screen: "Screen", missing: "tuple[Missing, ...]") -> None:
    """Name the missing trainings of a result that was shown, and end the command with exit code 1 if there are any."""
    if not missing:
        return
    for one in missing:
        screen.note(f"missing: {one.line}")
    screen.note(f"raydd: {len(missing)} trainings failed; the same command trains only these")
    raise typer.Exit(1)
