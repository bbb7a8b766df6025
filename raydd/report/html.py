"""HTML of a page by Jinja2: tables that sort, pictures, charts, commands. Every text is escaped by the templates."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from raydd.figures.cells import Cell, Row, percent, spread
from raydd.figures.svg import inline_svg
from raydd.io.console import clock, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Section(NamedTuple):
    """A part of the page."""

    anchor: str  # the fragment of a link to it: letters, digits and hyphens
    title: str  # plain text
    body: Markup  # HTML


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
    for word in (_sort_key, plural, percent, spread, clock):
        environment.filters[word.__name__.strip("_")] = word
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


def table(rows: Sequence[Row], caption: str, notes: Mapping[str, str] | None = None) -> Markup:
    """Return a table that sorts by a press on a title.

    The first cell of a row is its name. A column is one of numbers, aligned to the right, if each of its cells has one.

    Args:
        rows: The rows, at least one, with equal keys.
        caption: What the table shows, plain text.
        notes: What a title means, a tooltip that screen readers read too.
    """
    if wrong := [len(row) for row in rows if row.keys() != rows[0].keys()]:
        raise ValueError(f"a row of {wrong[0]} cells in a table of {len(rows[0])} columns; give one cell a column")
    cells = [{title: cell if isinstance(cell, Cell) else Cell(cell) for title, cell in row.items()} for row in rows]
    numeric = {title for title in rows[0] if all(isinstance(row[title].value, int | float) for row in cells)}
    return macros("elements").table(cells, numeric, caption, notes or {})


def chart(figure: "Figure") -> Markup:
    """Return a matplotlib figure as SVG in the page."""
    return Markup(f'<figure class="chart">{inline_svg(figure)}</figure>')


def picture(png: bytes, alt: str, caption: str = "", *, pixelated: bool = False) -> Markup:
    """Return a PNG picture in the page; pixelated keeps its pixels squares when it is enlarged."""
    width, height = Image.open(io.BytesIO(png), formats=["PNG"]).size
    return macros("elements").picture(png_address(png), width, height, alt, caption, pixelated)


def picture_file(path: Path, alt: str, caption: str = "") -> Markup:
    """Return a PNG file's picture, see `picture`."""
    png = path.read_bytes()
    try:
        return picture(png, alt, caption)
    except OSError:
        raise ValueError(f"{path} is no PNG picture; remove it, or write it again") from None


def png_address(png: bytes) -> str:
    """Return the data URI of a PNG."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def plural(count: Any, word: str) -> str:
    """Return a number with what it counts.

    >>> plural(1, "image"), plural(2.5, "image")
    ('1 image', '2.5 images')
    """
    number = f"{count:g}" if isinstance(count, float) else str(count)
    return f"{number} {word}{'' if number == '1' else 's'}"
