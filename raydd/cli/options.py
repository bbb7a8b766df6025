"""Flags that several commands share, and how their results are shown."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from raydd.data.score_record import Score

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as a.b=value; may be repeated.")]
Seed = Annotated[int, typer.Option(help="Every draw comes from it.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster; none starts a local Ray.")]
Workers = Annotated[int | None, typer.Option(help="Ray workers; as many as fit are started.")]
GpusPerWorker = Annotated[float | None, typer.Option(help="GPUs a worker, such as 0.25: four share one GPU.")]
DatasetOption = Annotated[str | None, typer.Option(help="A name of `raydd datasets`, or a path.")]


def known_device(device: str) -> str:
    """A device as asked for, or a refusal."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device!r}: use auto, cpu or cuda")
    return device


def dataset_word(name: str) -> str:
    """A registered name as it is; a path made absolute, since workers run elsewhere."""
    from raydd.data.datasets import absolute_dataset

    return absolute_dataset(name)


def given(**values: Any) -> dict[str, Any]:
    """The flags that were given."""
    return {key: value for key, value in values.items() if value is not None}


def listed(text: str | None) -> tuple[str, ...] | None:
    """Words with commas; None of nothing, and no words of ``none``.

    >>> listed("MLP, LeNet"), listed("none"), listed(None)
    (('MLP', 'LeNet'), (), None)
    """
    if text is None:
        return None
    return () if text.strip() == "none" else tuple(word.strip() for word in text.split(",") if word.strip())


def window_words(text: str | None) -> dict[str, Any]:
    """The settings that ``--window`` means.

    Raises:
        ValueError: If it is neither auto nor two or three epochs.

    >>> window_words("0:4:20")
    {'auto': False, 'low': 0, 'current': 4, 'high': 20}
    """
    if text is None:
        return {}
    if text == "auto":
        return {"auto": True}
    epochs = text.split(":")
    if len(epochs) not in (2, 3) or not all(epoch.isdecimal() for epoch in epochs):
        raise ValueError(f"--window {text!r}: use auto, T-:T+ such as 0:20, or T-:T:T+ such as 0:4:20")
    low, *current, high = (int(epoch) for epoch in epochs)
    return {"auto": False, "low": low, "current": current[0] if current else None, "high": high}


def whole_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Whole numbers from words with commas, which a flag was given; none from nothing.

    Raises:
        ValueError: If they are none.

    >>> whole_numbers("6, 25", "--epochs"), whole_numbers("", "--epochs")
    ((6, 25), ())
    """
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ValueError(f"{flag} {text!r}: give whole numbers with commas, such as 6,25") from None


def row_names(paths: Sequence[Path]) -> list[str]:
    """What rows of sets are called: of each path as many last folders as tell it from the others.

    >>> row_names([Path("runs/a/s0/synset.arrow"), Path("runs/b/s0"), Path("/far/dm.pt")])
    ['a/s0', 'b/s0', 'dm.pt']
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    parts = [found[:-1] if found[-1] == "synset.arrow" else found for found in parts]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        lengths = (length for length in range(1, len(own)) if all(own[-length:] != each[-length:] for each in others))
        names.append(str(Path(*own[-next(lengths, len(own)) :])))
    return names


def out_file(path: Path, name: str) -> Path:
    """The file that ``--out`` means: in a folder that exists the one of this name, otherwise the path itself.

    It is checked before the work whose result it will hold.

    Raises:
        ValueError: It is no plain file, such as a device, or its folder takes no files.
    """
    try:
        path = path / name if path.is_dir() else path
        if path.exists() and not path.is_file():
            raise ValueError(f"--out {path} is no plain file; name a file, such as {name}, or a folder")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written ({error.strerror}); name a file elsewhere") from None
    return path


def show_scores(
    screen: Any, scores: "list[Score]", outputs: dict[str, str], report: dict[str, Any] | None = None
) -> None:
    """Scores as tables, and where they were written.

    Args:
        screen: Where.
        scores: The scores.
        outputs: Files by what they are.
        report: What else there is to say of the scores, see `raydd.api.evaluate.report`.
    """
    from raydd.data.score_record import Comparison, RobustScore, table_rows
    from raydd.figures.score_tables import comparison_table, matrix_table, robust_table, score_table

    rows, more = table_rows(scores), report or {}
    tables = [score_table(rows)]
    if robust := more.get("robust"):
        tables += [score_table([score for score in scores if not score.in_table], "trainings of the robust scores")]
        tables += [robust_table([RobustScore.from_document(score) for score in robust])]
    if comparisons := more.get("comparisons"):
        tables.append(comparison_table([Comparison.from_document(test) for test in comparisons]))
    if report is not None and len({score.network for score in rows}) > 1:
        tables.append(matrix_table(rows))

    def show(console: Any) -> None:
        for table in tables:
            console.print(table)
        for name, path in outputs.items():
            console.print(f"{name}: {path}", markup=False)

    screen.result({"scores": [score.to_document() for score in scores], "outputs": outputs} | more, show)


def show_document(screen: Any, document: dict[str, Any]) -> None:
    """A document, a line a key."""
    screen.result(document, printer(document))


def printer(document: dict[str, Any]) -> Any:
    """Prints a document, a line a key."""
    lines = [f"{key:14} {value}" for key, value in document.items()]
    return lambda console: console.print("\n".join(lines), markup=False)
