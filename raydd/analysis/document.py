"""Numbers and names of an analysis document, and the paths of its two files."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydd.figures.style import save_figure
from raydd.io.bounded_file import read_bytes
from raydd.io.document import parse, write_document
from raydd.io.files import AnyPath
from raydd.io.uri import is_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = dict[str, Any]


def finite_or_none(value: Any) -> Any:
    """Replace infinities and NaN, which JSON does not have, by None."""
    if isinstance(value, list):
        return [finite_or_none(item) for item in value]
    return value if math.isfinite(value) else None


def default_out(folders: Sequence[Path], analysis: str) -> Path:
    """Return the path of a figure: beside its one folder, or in the current folder for several."""
    if len(folders) != 1:
        return Path(f"{analysis}.png")
    folder = folders[0] if folders[0].name not in ("", "..") else folders[0].resolve()
    return folder.with_name(f"{folder.name}-{analysis}.png")


def check_out(out: Path, analysis: str) -> None:
    """Refuse a path that is no PNG, or whose numbers would replace another JSON file, before anything is computed."""
    if out.suffix != ".png":
        raise ValueError(f"--out {out}: figures are PNG; use {out.with_suffix('.png')}, or a folder that exists")
    path = out.with_suffix(".json")
    try:
        own = not path.exists() or parse(read_bytes(path))["analysis"] == analysis
    except (ValueError, KeyError, TypeError, OSError):
        own = False
    if not own:
        raise ValueError(f"{path} is not of this analysis and would be replaced; name another --out")


def check_folder(out: AnyPath) -> None:
    """Refuse a folder that cannot be made because it, or a parent, is a file; before anything is computed."""
    if is_uri(out):
        return
    out = Path(out)
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(
            f"--out {out} cannot be written: {existing} is a file, and a folder is needed; name another --out"
        )


def save(numbers: Document, draw: Callable[[Document], "Figure"], out: Path) -> dict[str, str]:
    """Write a document and its figure; return their paths."""
    path = out.with_suffix(".json")
    write_document(path, numbers)
    return {"figure": str(save_figure(draw(numbers), out)), "numbers": str(path)}
