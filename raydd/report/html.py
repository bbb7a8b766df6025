"""Pieces of HTML: tables that sort, pictures, code, definitions. Whatever is text is escaped here.

Shapes: none.
"""

import base64
import html
import math
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from raydd.io.console import visible

SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        anchor: What a link to it ends with; one word of letters, digits and hyphens.
        title: Plain text.
        body: HTML.
    """

    anchor: str
    title: str
    body: str


class Column(NamedTuple):
    """A table's column.

    Attributes:
        title: Plain text.
        numeric: Sorted as numbers, and set to the right.
        note: What the title means; a tooltip, read aloud too.
    """

    title: str
    numeric: bool = False
    note: str = ""


class Cell(NamedTuple):
    """A table's cell.

    Attributes:
        shown: Plain text.
        value: What it is sorted by; None sorts by what is shown. NaN stands last.
        note: A tooltip, read aloud too.
    """

    shown: str
    value: float | str | None = None
    note: str = ""


def escape(value: object) -> str:
    """Any value as text that stands for itself, in an element or an attribute.

    >>> escape('a < "b"')
    'a &lt; &quot;b&quot;'
    """
    return html.escape(visible(str(value)))


def paragraph(text: str) -> str:
    """A paragraph of plain text.

    >>> paragraph("p < 0.05")
    '<p>p &lt; 0.05</p>'
    """
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    """A command or a file as it is, which the page's script gives a button that copies it."""
    return f'<div class="code"><pre tabindex="0"><code>{escape(text)}</code></pre></div>'


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """What is shown on demand.

    Args:
        summary: Plain text that is always seen.
        body: HTML.
        opened: Whether it is shown from the start.
    """
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{body}</details>"


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Words and what they are here, both plain text.

    >>> definitions([("seed", "0")])
    '<dl><div><dt>seed</dt><dd>0</dd></div></dl>'
    """
    rows = (f"<div><dt>{escape(word)}</dt><dd>{escape(said)}</dd></div>" for word, said in pairs)
    return f"<dl>{''.join(rows)}</dl>"


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], caption: str, *, sort: bool = True) -> str:
    """A table; the first cell of a row is its name (``<th scope="row">``), the others are ``<td>``.

    Args:
        columns: Its columns.
        rows: As many cells each; a plain string is a cell that is sorted by what it shows.
        caption: Plain text above it: what the numbers are and their units.
        sort: Whether a press on a title sorts by it.

    Raises:
        ValueError: A row has more or fewer cells than there are columns.
    """
    heads = "".join(_head(column, sort) for column in columns)
    body = "".join(_row(columns, row) for row in rows)
    kind = ' class="sortable"' if sort else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table{kind}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def picture(png: bytes, alt: str, caption: str = "", *, pixelated: bool = False) -> str:
    """A PNG picture that lies in the page itself.

    Args:
        png: The bytes of its file.
        alt: What it shows, for who does not see it.
        caption: Plain text below it.
        pixelated: Whether its pixels stay squares when it is enlarged.

    Raises:
        ValueError: They are no PNG.
    """
    width, height = png_size(png)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = ' class="pixelated"' if pixelated else ""
    shown = f'<img{kind} src="{png_address(png)}" alt="{escape(alt)}" width="{width}" height="{height}">'
    return f'<figure class="picture">{shown}{below}</figure>'


def picture_file(path: Path, alt: str, caption: str = "") -> str:
    """A PNG file's picture, see `picture`.

    Raises:
        ValueError: It is no PNG.
    """
    try:
        return picture(path.read_bytes(), alt, caption)
    except ValueError:
        raise ValueError(f"{path} is no PNG picture; remove it, or write it again") from None


def png_address(png: bytes) -> str:
    """What an ``<img>`` names to show these bytes."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def png_size(png: bytes) -> tuple[int, int]:
    """A PNG's (width, height) in pixels, of its header.

    Raises:
        ValueError: The bytes are no PNG.
    """
    if len(png) < 24 or not png.startswith(SIGNATURE):
        raise ValueError(f"{len(png)} bytes are no PNG picture; give the bytes of a PNG file")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _head(column: Column, sort: bool) -> str:
    kind, unseen = _kind(column.numeric), _unseen(column.note)
    if not sort:
        return f'<th scope="col"{kind}{_title(column.note)}>{escape(column.title)}{unseen}</th>'
    button = f'<button type="button"{_title(column.note)}>{escape(column.title)}{unseen}</button>'
    return f'<th scope="col" aria-sort="none"{kind}>{button}</th>'


def _row(columns: Sequence[Column], row: Sequence[Cell | str]) -> str:
    if len(row) != len(columns):
        raise ValueError(f"a row of {len(row)} cells in a table of {len(columns)} columns; give one cell a column")
    cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
    shown = []
    for place, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        start, end = ('th scope="row"', "th") if place == 0 else ("td", "td")
        told = f"{_kind(column.numeric)}{_value(cell.value)}{_title(cell.note)}"
        shown.append(f"<{start}{told}>{escape(cell.shown)}{_unseen(cell.note)}</{end}>")
    return f"<tr>{''.join(shown)}</tr>"


def _kind(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _value(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):  # as the page's script reads them
        return f' data-value="{"" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}"'
    return f' data-value="{escape(value)}"'


def _title(note: str) -> str:
    return f' title="{escape(note)}"' if note else ""


def _unseen(note: str) -> str:
    return f'<span class="unseen"> ({escape(note)})</span>' if note else ""
