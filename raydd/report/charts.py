"""Charts as SVG that lies in the page: curves with bands, points, bars. The page's style gives their colours.

Every chart is a ``<figure>`` with its title, an ``<svg role="img">`` that is described in words, and a legend where
there is more than one thing to tell apart. Colours are the style's variables, by the classes ``c0`` to ``c6``; what a
colour tells is told by dashes or a shape too.

Shapes: none; places are in units of the view box, about a pixel each.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from raydd.report.axes import Axis, axis, buckets, drawable, number, thin
from raydd.report.html import escape
from raydd.report.markers import colour, dash, dashes, mark

WIDTH, TOP, HEIGHT = 400, 22, 250  # of a plot; its values lie between TOP and FLOOR
FLOOR = HEIGHT - 38
LETTER = 7.9  # the width of one, of ticks
ROW = 34  # a bar with its name
FEW = 12  # points that are marked on a curve

Series = Sequence[float | None]


class Curve(NamedTuple):
    """Values against values.

    Attributes:
        name: In the legend; a curve without one is thin and stands in no legend.
        x: (n,), ascending.
        y: (n,); None and NaN leave gaps.
        low: (n,), the lower end of a band; None draws no band.
        high: (n,), its upper end.
    """

    name: str
    x: Sequence[float]
    y: Series
    low: Series | None = None
    high: Series | None = None


class Point(NamedTuple):
    """A point.

    Attributes:
        x: Where.
        y: Where.
        name: Its tooltip.
        group: Points of a group share colour and shape.
    """

    x: float
    y: float
    name: str
    group: str = ""


class Bar(NamedTuple):
    """A bar.

    Attributes:
        name: Written above it.
        value: Its length.
        low: The lower end of its error bar; None draws none.
        high: The upper end.
        group: Bars of a group share a colour and a mark.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""


def lines(curves: Sequence[Curve], *, x: str, y: str, title: str, log_y: bool = False, zero: bool = False) -> str:
    """Curves, each with its band.

    Args:
        curves: What to draw; long ones are thinned so that spikes stay.
        x: What is across, with its unit.
        y: What is up, with its unit.
        title: Plain text.
        log_y: A logarithmic scale; values of 0 and below leave gaps.
        zero: The scale reaches to 0.
    """
    seen = [(c.x[at], v) for c in curves for s in (c.y, c.low or (), c.high or ()) for at, v in enumerate(s)]
    told = [(float(across), float(up)) for across, up in seen if up is not None and drawable(up, log_y)]
    if not told:
        return _nothing(title)
    up = axis((value for _, value in told), FLOOR, TOP, log=log_y, zero=zero and not log_y)
    across = _across((value for value, _ in told), up)
    drawn = [_grid(across, up, x, y, whole=all(value.is_integer() for value, _ in told))]
    drawn += [_band(curve, across, up, index) for index, curve in enumerate(curves)]
    drawn += [_curve(curve, across, up, index) for index, curve in enumerate(curves)]
    legend = [(curve.name, dash(index)) for index, curve in enumerate(curves) if curve.name]
    axes = " ".join(f"{value:.8g}" for value in (*across[:4], *up))
    said = " ".join(_said(curve, x, log_y) for curve in curves if curve.name)
    return _figure(title, f"{y} against {x}. {said}", drawn, legend, attributes=f' data-axes="{axes}"')


def scatter(points: Sequence[Point], *, x: str, y: str, title: str, diagonal: bool = False) -> str:
    """Points, groups of them told apart by colour and shape.

    Args:
        points: What to draw; points that are not finite are left out.
        x: What is across, with its unit.
        y: What is up, with its unit.
        title: Plain text.
        diagonal: Whether to draw the line on which both are equal.
    """
    found = [point for point in points if drawable(point.x) and drawable(point.y)]
    if not found:
        return _nothing(title)
    groups = list(dict.fromkeys(point.group for point in found))
    up = axis((point.y for point in found), FLOOR, TOP)
    across = _across((point.x for point in found), up)
    drawn = [_grid(across, up, x, y)]
    if diagonal and (low := max(across.low, up.low)) < (high := min(across.high, up.high)):
        places = f'x1="{_at(across, low)}" y1="{_at(up, low)}" x2="{_at(across, high)}" y2="{_at(up, high)}"'
        drawn.append(f'<line class="even" {places}/>')
    for point in found:
        shape = mark(groups.index(point.group), across.at(point.x), up.at(point.y))
        drawn.append(f"<g>{shape}<title>{escape(point.name)}</title></g>")
    legend = [(group, mark(index, 14, 6)) for index, group in enumerate(groups) if group]
    ends = (f"{name} from {number(min(vs))} to {number(max(vs))}" for name, vs in _both(found, x, y))
    return _figure(title, f"{len(found)} points: {'; '.join(ends)}.", drawn, legend)


def bars(values: Sequence[Bar], *, x: str, title: str) -> str:
    """Horizontal bars from 0, with error bars.

    Args:
        values: What to draw, from the top; those that are not finite are left out.
        x: What their length is, with its unit.
        title: Plain text.
    """
    found = [bar for bar in values if drawable(bar.value)]
    if not found:
        return _nothing(title)
    ends = [end for bar in found for end in (bar.value, bar.low, bar.high) if end is not None and drawable(end)]
    across = axis(ends, 6, WIDTH - 14, zero=True)
    groups = list(dict.fromkeys(bar.group for bar in found))
    floor = ROW * len(found) + 6
    drawn = [
        f'<line class="grid" x1="{_at(across, value)}" y1="0" x2="{_at(across, value)}" y2="{floor}"/>'
        f'<text class="tick" x="{_at(across, value)}" y="{floor + 14}" text-anchor="middle">{escape(shown)}</text>'
        for value, shown in across.ticks()
    ]
    written = _alike([bar.value for bar in found])
    for place, (bar, shown) in enumerate(zip(found, written, strict=True)):
        drawn.append(_bar(bar, place, groups.index(bar.group), across, shown))
    drawn.append(f'<text class="axis" x="{WIDTH / 2:g}" y="{floor + 31}" text-anchor="middle">{escape(x)}</text>')
    legend = [(group, mark(index, 14, 6)) for index, group in enumerate(groups) if group] if len(groups) > 1 else []
    said = "; ".join(f"{bar.name}: {number(bar.value)}" for bar in found)
    return _figure(title, f"{x}. {said}.", drawn, legend, height=floor + 38)


def _bar(bar: Bar, place: int, group: int, across: Axis, shown: str) -> str:
    top, zero, end = place * ROW, across.at(0), across.at(bar.value)
    error, told = "", number(bar.value)
    if bar.low is not None and bar.high is not None and drawable(bar.low) and drawable(bar.high):
        low, high, middle = _at(across, bar.low), _at(across, bar.high), top + 25
        path = f"M{low} {middle}H{high}M{low} {middle - 4}v8M{high} {middle - 4}v8"
        error, told = f'<path class="error" d="{path}"/>', f"{told}, from {number(bar.low)} to {number(bar.high)}"
    words = f"{bar.name}{f' ({bar.group})' if bar.group else ''}: {told}"
    shape = mark(group, 11, top + 10) if bar.group else ""
    return (
        f'<g><rect class="bar {colour(group)}" x="{min(zero, end):.1f}" y="{top + 18}" rx="2"'
        f' width="{max(abs(end - zero), 0.5):.1f}" height="14"/>{error}{shape}'
        f'<text class="name" x="{22 if shape else 6}" y="{top + 14}">{escape(bar.name)}</text>'
        f'<text class="name" x="{WIDTH - 6}" y="{top + 14}" text-anchor="end">{shown}</text>'
        f"<title>{escape(words)}</title></g>"
    )


def _alike(values: Sequence[float]) -> list[str]:
    """Values with as many decimals each."""
    written = [number(value) for value in values]
    if any("e" in words for words in written):
        return written
    decimals = max(len(words.partition(".")[2]) for words in written)
    return [f"{value:.{decimals}f}" for value in values]


def _curve(curve: Curve, across: Axis, up: Axis, index: int) -> str:
    kept = thin(curve.y, log=up.log)
    parts: list[list[tuple[float, float]]] = [[]]
    for at in kept:
        value = curve.y[at]
        if value is not None and drawable(value, up.log):
            parts[-1].append((across.at(curve.x[at]), up.at(value)))
        else:
            parts.append([])
    path = "".join("M" + "L".join(f"{left:.3f} {top:.3f}" for left, top in part) for part in parts if len(part) > 1)
    marked = [place for part in parts for place in part if len(kept) <= FEW or len(part) == 1]
    kind = f"{colour(index)}{'' if curve.name else ' thin'}"
    drawn = f'<path class="line {kind}"{dashes(index) if curve.name else ""} d="{path}"/>' if path else ""
    drawn += "".join(f'<circle class="mark {kind}" cx="{left:.3f}" cy="{top:.3f}" r="2.5"/>' for left, top in marked)
    return f"<g>{drawn}<title>{escape(curve.name)}</title></g>" if curve.name else f"<g>{drawn}</g>"


def _band(curve: Curve, across: Axis, up: Axis, index: int) -> str:
    if curve.low is None or curve.high is None:
        return ""
    parts: list[list[tuple[float, float, float]]] = [[]]
    for bucket in buckets(len(curve.x)):
        low, high = ([v for at in bucket if (v := s[at]) is not None] for s in (curve.low, curve.high))
        low, high = ([value for value in values if drawable(value, up.log)] for values in (low, high))
        if low and high:
            parts[-1].append((across.at(curve.x[bucket[0]]), up.at(min(low)), up.at(max(high))))
        else:
            parts.append([])
    paths = []
    for part in (part for part in parts if part):
        there = [f"{left:.1f} {top:.1f}" for left, _, top in part]
        back = [f"{left:.1f} {bottom:.1f}" for left, bottom, _ in reversed(part)]
        paths.append(f"M{'L'.join(there + back)}Z")
    return f'<path class="band {colour(index)}" d="{"".join(paths)}"/>'


def _across(values: Iterable[float], up: Axis) -> Axis:
    """The scale across, right of what is written beside the ticks."""
    widest = max((len(shown) for _, shown in up.ticks()), default=1)
    return axis(values, 10 + LETTER * widest, WIDTH - 12)


def _grid(across: Axis, up: Axis, x: str, y: str, *, whole: bool = False) -> str:
    """Lines, ticks and names; ``whole`` sets ticks across at whole numbers alone."""
    drawn = [f'<text class="axis" x="2" y="11">{escape(y)}</text>']
    for value, shown in up.ticks():
        place = _at(up, value)
        drawn.append(f'<line class="grid" x1="{across.start:.1f}" y1="{place}" x2="{across.end:.1f}" y2="{place}"/>')
        words = f'x="{across.start - 5:.1f}" y="{up.at(value) + 4:.1f}" text-anchor="end"'
        drawn.append(f'<text class="tick" {words}>{escape(shown)}</text>')
    drawn.append(f'<line class="floor" x1="{across.start:.1f}" y1="{FLOOR}" x2="{across.end:.1f}" y2="{FLOOR}"/>')
    for value, shown in across.ticks(whole=whole):
        place = _at(across, value)
        drawn.append(f'<line class="floor" x1="{place}" y1="{FLOOR}" x2="{place}" y2="{FLOOR + 4}"/>')
        drawn.append(f'<text class="tick" x="{place}" y="{FLOOR + 16}" text-anchor="middle">{escape(shown)}</text>')
    middle = (across.start + across.end) / 2
    drawn.append(f'<text class="axis" x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    return "".join(drawn)


def _at(scale: Axis, value: float) -> str:
    return f"{scale.at(value):.1f}"


def _said(curve: Curve, x: str, log: bool) -> str:
    told = [(at, float(y)) for at, y in zip(curve.x, curve.y, strict=True) if y is not None and drawable(y, log)]
    if not told:
        return f"{curve.name}: no value."
    values = [value for _, value in told]
    return (
        f"{curve.name}: {number(values[0])} at {x} {number(told[0][0])}, {number(values[-1])} at {number(told[-1][0])};"
        f" least {number(min(values))}, most {number(max(values))}."
    )


def _both(points: Sequence[Point], x: str, y: str) -> tuple[tuple[str, list[float]], tuple[str, list[float]]]:
    return (x, [point.x for point in points]), (y, [point.y for point in points])


def _figure(
    title: str,
    said: str,
    drawn: Iterable[str],
    legend: Sequence[tuple[str, str]] = (),
    *,
    height: float = HEIGHT,
    attributes: str = "",
) -> str:
    entries = "".join(
        f'<li><svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true">{drawn_mark}</svg>{escape(name)}</li>'
        for name, drawn_mark in legend
    )
    below = f'<ul class="legend">{entries}</ul>' if len(legend) > 1 else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img"{attributes}><title>{escape(title)}</title>'
        f"<desc>{escape(said)}</desc>{''.join(drawn)}</svg>{below}</figure>"
    )


def _nothing(title: str) -> str:
    """A chart's place where no value is recorded."""
    said = '<text class="axis" x="200" y="20" text-anchor="middle">no value is recorded</text>'
    return _figure(title, "no value is recorded", [said], height=32)
