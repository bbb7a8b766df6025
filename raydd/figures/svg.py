"""Figures as SVG inside a page: in the colours of the page's theme, described in words, the same bytes each time."""

import colorsys
import hashlib
import io
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from raydd.figures.style import COLOURS
from raydd.io.console import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Element = ElementTree.Element
NAMED = {"#000000": "var(--ink)", "#ffffff": "var(--paper)", "#b0b0b0": "var(--faint)"} | {
    colour.lower(): f"var(--line-{index})" for index, colour in enumerate(COLOURS)
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"font-family: [^;]*;?|font: ([\d.]+px) [^;]*")
_REFERENCE = re.compile(r"(?:(?<=url\()|^)#([\w.-]+)(?=\)|$)")
_PLACE = "\x1e"  # stands for a figure's digest; no text of a figure has this control character
_NUMBER = re.compile(r"(\d+\.\d{2})\d+")


def inline_svg(figure: "Figure") -> str:
    """Return a figure as an ``<svg role="img">`` for a page whose style names the theme's colours.

    Its title is the figure's, its description gives each series in words, and points whose collection has URLs have
    these as tooltips. Each panel of lines names its scales in ``data-axes``, by which a script can read values.
    """
    import matplotlib

    lines, panels = dict[str, str](), figure.axes
    for index, axes in enumerate(panels):
        axes.set_gid(f"axes-{index}")
        for line in _named(axes):
            line.set_gid(f"curve-{len(lines)}")
            lines[f"curve-{len(lines)}"] = str(line.get_label())
    _take_texts_literally(figure)
    data = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "raydd"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the browser's fonts have it
        figure.savefig(data, format="svg", transparent=True, metadata=NO_METADATA)
    root = ElementTree.fromstring(visible(data.getvalue()))
    _simplify(root)
    width, height = (float(word) for word in root.attrib["viewBox"].split()[2:])
    for element in root.iter():
        if (gid := element.attrib.get("id", "")) in ("band", "thin"):
            element.set("class", gid)
        elif gid in lines:
            element.set("class", "curve")
            element.insert(0, _text("title", lines[gid]))
        elif gid.startswith("axes-") and _named(axes := panels[int(gid[5:])]) and axes.get_xscale() == "linear":
            element.set("data-axes", _scales(axes, width, height))
    title = figure.get_suptitle() or next((axes.get_title(loc="left") for axes in panels), "")
    root.insert(0, _text("title", " ".join(title.split())))
    root.insert(1, _text("desc", " ".join(sentence for axes in panels for sentence in _sentences(axes))))
    root.attrib = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "style": f"--width: {1.25 * width:.0f}px"}
    return _own_ids(root)


def number(value: float) -> str:
    """Return a value in at most four significant digits.

    >>> number(87.1429), number(1293), number(0.00012), number(-3.0)
    ('87.14', '1293', '0.00012', '-3')
    """
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}" if abs(value) < 1e7 else f"{value:.3g}"


def _sentences(axes: "Axes") -> Iterator[str]:
    """Describe each series in words: its ends, its least and its largest value."""
    name, x = " ".join(axes.get_title(loc="left").split()), axes.get_xlabel()
    if name:
        yield f"{name}."
    for line in _named(axes):
        label = str(line.get_label())
        across, up = (np.asarray(each, np.float64) for each in (line.get_xdata(), line.get_ydata()))
        known = np.isfinite(up)
        if not known.any():
            yield f"{label}: no value."
            continue
        across, up = across[known], up[known]
        first, last, least, most = map(number, (up[0], up[-1], up.min(), up.max()))
        yield f"{label}: {first} at {x} {number(across[0])}, {last} at {number(across[-1])};"
        yield f"least {least}, most {most}."
    for collection in axes.collections:
        label, count = str(collection.get_label()), len(collection.get_offsets())  # type: ignore[arg-type]
        if not label.startswith("_") and count:
            yield f"{label}: {count} points."
    rows = [text.get_text().replace("\n", " ") for text in axes.get_yticklabels()]
    for container in axes.containers:
        for bar in getattr(container, "patches", ()):
            at = round(bar.get_y() + bar.get_height() / 2)
            yield f"{rows[at] if at < len(rows) else ''}: {number(bar.get_width())};"


def _named(axes: "Axes") -> "list[Line2D]":
    """Return the lines that a legend names."""
    return [line for line in axes.lines if not str(line.get_label()).startswith("_")]


def _take_texts_literally(figure: "Figure") -> None:
    """Take a dollar sign of a name as one; the numbers that matplotlib writes beside ticks stay formulas."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    scales = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    scales = [axis for axis in scales if not isinstance(axis.get_major_formatter(), FixedFormatter)]
    ticks = [tick for axis in scales for tick in (*axis.majorTicks, *axis.minorTicks)]
    numbers = {text for tick in ticks for text in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)


def _simplify(root: Element) -> None:
    """Drop namespaces, metadata and style sheets; turn links into tooltips, and colours into those of the theme."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.text, element.tail = (element.text or "").strip("\n "), ""
        for name in ("d", "x", "y", "transform"):
            if name in element.attrib:
                element.set(name, " ".join(_NUMBER.sub(r"\1", element.attrib[name]).split()))
        if style := element.attrib.get("style"):
            if element.attrib.get("transform", "").startswith("rotate(-0 "):
                del element.attrib["transform"]
            element.set("style", _COLOUR.sub(_themed, _FONT.sub(_font_size, style)).strip())
        for child in list(element):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                element.remove(child)
        if element.tag == "a":
            element.tag, title = "g", element.attrib.pop("href")
            element.insert(0, _text("title", title))


def _font_size(match: re.Match[str]) -> str:
    return f"font-size: {match[1]}" if match[1] else ""


def _themed(match: re.Match[str]) -> str:
    """Return the page's name of a colour; other colours have their lightness turned round in the dark theme."""
    if match[0] in NAMED:
        return NAMED[match[0]]
    red, green, blue = (int(match[0][place : place + 2], 16) / 255 for place in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    turned = "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, 1 - lightness, saturation))
    return f"light-dark({match[0]}, #{turned})"


def _scales(axes: "Axes", width: float, height: float) -> str:
    """Return the values at a panel's edges and where these lie: low high start end bottom top floor ceiling log."""
    box: Any = axes.get_position()
    places = box.x0 * width, box.x1 * width, *axes.get_ylim(), (1 - box.y0) * height, (1 - box.y1) * height
    log = int(axes.get_yscale() == "log")
    return " ".join(f"{value:.8g}" for value in (*axes.get_xlim(), *places, log) if math.isfinite(value))


def _text(tag: str, text: str) -> Element:
    element = Element(tag)
    element.text = visible(text)
    return element


def _own_ids(root: Element) -> str:
    """Number the ids that something refers to, as some of matplotlib's differ from run to run, and drop the others.

    They begin with a digest of the figure, so that those of two figures differ.
    """
    values = [value for element in root.iter() for value in element.attrib.values()]
    used = dict.fromkeys(name for value in values for name in _REFERENCE.findall(value))
    names = {name: f"{_PLACE}{index}" for index, name in enumerate(used)}
    for element in root.iter():
        if (name := element.attrib.pop("id", None)) in names:
            element.set("id", names[name])
        for key, value in element.attrib.items():
            element.set(key, _REFERENCE.sub(lambda match: f"#{names[match[1]]}", value))
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace(_PLACE, f"figure-{hashlib.sha256(text.encode()).hexdigest()[:10]}-")
