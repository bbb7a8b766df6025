"""Plain numbers and names of a document, and where its two files go."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydd.figures.style import save_figure
from raydd.io.bounded_file import read_bytes
from raydd.io.document import parse, write_document

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = dict[str, Any]


def plain(value: Any) -> Any:
    """Infinities and NaN, which JSON does not have, as None."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if math.isfinite(value) else None


def names_of(folders: Sequence[Path]) -> list[str]:
    """What folders are called in a legend: their last part, or the whole path where two would be the same."""
    last = [folder.absolute().name for folder in folders]
    return [name if last.count(name) == 1 else str(folder) for name, folder in zip(last, folders, strict=True)]


def default_out(folders: Sequence[Path], analysis: str) -> Path:
    """Where a figure goes: beside the one folder it is of, or here when it is of several."""
    if len(folders) != 1:
        return Path(f"{analysis}.png")
    folder = folders[0] if folders[0].name not in ("", "..") else folders[0].resolve()
    return folder.with_name(f"{folder.name}-{analysis}.png")


def check_out(out: Path, analysis: str) -> None:
    """Refuse a place where the two files of an analysis cannot go, before anything is computed.

    Raises:
        ValueError: Not a PNG's name, or numbers would replace a JSON file of something else.
    """
    if out.suffix != ".png":
        raise ValueError(f"--out {out}: figures are PNG; use {out.with_suffix('.png')}, or a folder that exists")
    path = out.with_suffix(".json")
    try:
        own = not path.exists() or parse(read_bytes(path))["analysis"] == analysis
    except (ValueError, KeyError, TypeError, OSError):
        own = False
    if not own:
        raise ValueError(f"{path} is not of this analysis and would be replaced; name another --out")


def check_folder(out: Path) -> None:
    """Refuse a folder that cannot be made, before anything is computed.

    Raises:
        ValueError: It, or what it would lie in, is a file.
    """
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(
            f"--out {out} cannot be written: {there} is a file, and a folder is needed; name another --out"
        )


def save(numbers: Document, draw: Callable[[Document], "Figure"], out: Path) -> dict[str, str]:
    """Write a document and its figure; returns what was written."""
    path = out.with_suffix(".json")
    write_document(path, numbers)
    return {"figure": str(save_figure(draw(numbers), out)), "numbers": str(path)}
