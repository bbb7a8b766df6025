"""HTML of a page by Jinja2: tables that sort, pictures, charts, commands. Every text is escaped by the templates."""

import base64
import math
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raydd.figures.svg import inline_svg
from raydd.io.console import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Section(NamedTuple):
    """A part of the page."""

    anchor: str  # the fragment of a link to it: letters, digits and hyphens
    title: str  # plain text
    body: Markup  # HTML


class Column(NamedTuple):
    """A table's column."""

    title: str  # plain text
    numeric: bool = False  # whether it is sorted as numbers and aligned to the right
    note: str = ""  # what the title means; a tooltip that screen readers read too


class Cell(NamedTuple):
    """A table's cell."""

    text: str  # plain text
    value: float | str | None = None  # its sort key; None sorts by the text, NaN sorts last
    note: str = ""  # a tooltip that screen readers read too


Row = Sequence[Cell | str]


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Markup) else visible(str(value))


def _sort_key(value: float | str) -> str:
    """Return a number as the page's script reads it."""
    if not isinstance(value, float) or math.isfinite(value):
        return str(value)
    return "" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


@cache
def _environment() -> Environment:
    loader = PackageLoader("raydd.report")
    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        loader=loader,
        undefined=StrictUndefined,
        finalize=_finalize,
    )
    environment.filters |= {"sort_key": _sort_key, "plural": plural}
    return environment


class Macros(Protocol):
    """The macros of a template."""

    def __getattr__(self, name: str) -> Callable[..., Markup]:
        """Return a macro."""


@cache
def macros(name: str) -> Macros:
    """Return the macros of ``templates/<name>.html.j2``; each returns HTML."""
    return cast(Macros, _environment().get_template(f"{name}.html.j2").module)


def render(name: str, **values: object) -> str:
    """Return ``templates/<name>.html.j2`` with its values."""
    return _environment().get_template(f"{name}.html.j2").render(values)


def table(columns: Sequence[Column], rows: Sequence[Row], caption: str) -> Markup:
    """Return a table that sorts by a press on a title; the first cell of a row is its name."""
    if wrong := [len(row) for row in rows if len(row) != len(columns)]:
        raise ValueError(f"a row of {wrong[0]} cells in a table of {len(columns)} columns; give one cell a column")
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    return macros("elements").table(columns, cells, caption)


def chart(figure: "Figure") -> Markup:
    """Return a matplotlib figure as SVG in the page."""
    return Markup(f'<figure class="chart">{inline_svg(figure)}</figure>')


def picture(png: bytes, alt: str, caption: str = "", *, pixelated: bool = False) -> Markup:
    """Return a PNG picture in the page; pixelated keeps its pixels squares when it is enlarged."""
    return macros("elements").picture(png_address(png), *png_size(png), alt, caption, pixelated)


def picture_file(path: Path, alt: str, caption: str = "") -> Markup:
    """Return a PNG file's picture, see `picture`."""
    try:
        return picture(path.read_bytes(), alt, caption)
    except ValueError:
        raise ValueError(f"{path} is no PNG picture; remove it, or write it again") from None


def png_address(png: bytes) -> str:
    """Return the data URI of a PNG."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def png_size(png: bytes) -> tuple[int, int]:
    """Return a PNG's (width, height) in pixels, from its header."""
    if len(png) < 24 or not png.startswith(SIGNATURE):
        raise ValueError(f"{len(png)} bytes are no PNG picture; give the bytes of a PNG file")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def plural(count: Any, word: str) -> str:
    """Return a number with what it counts.

    >>> plural(1, "image"), plural(2.5, "image")
    ('1 image', '2.5 images')
    """
    number = f"{count:g}" if isinstance(count, float) else str(count)
    return f"{number} {word}{'' if number == '1' else 's'}"
