"""What tells one curve or group from another in a chart: a colour, and with it dashes or a shape.

Shapes: none; places are in units of the chart's view box.
"""

COLOURS = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 3", "1 2")


def colour(index: int) -> str:
    """The class that gives an index its colour.

    >>> colour(8)
    'c1'
    """
    return f"c{index % COLOURS}"


def dashes(index: int) -> str:
    """The attribute of a path that gives an index its dashes; the first has none.

    >>> dashes(1)
    ' stroke-dasharray="7 3"'
    """
    found = DASHES[(index + index // COLOURS) % len(DASHES)]
    return f' stroke-dasharray="{found}"' if found else ""


def mark(index: int, left: float, top: float) -> str:
    """An index's shape in its colour, about 8 wide, with its middle at a place."""
    size = 3.6
    shapes = (
        f"M{left - size:.1f} {top:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0Z",
        f"M{left - size:.1f} {top - size:.1f}h{2 * size}v{2 * size}h{-2 * size}Z",
        f"M{left:.1f} {top - 4.4:.1f}l4.4 8h-8.8Z",
        f"M{left:.1f} {top - 5:.1f}l5 5l-5 5l-5 -5Z",
        f"M{left:.1f} {top + 4.4:.1f}l4.4 -8h-8.8Z",
        f"M{left - 4.5:.1f} {top - 1.5:.1f}h3v-3h3v3h3v3h-3v3h-3v-3h-3Z",
        f"M{left - 5:.1f} {top - 2:.1f}h10v4h-10Z",
    )
    return f'<path class="point {colour(index)}" d="{shapes[(index + index // COLOURS) % len(shapes)]}"/>'


def dash(index: int) -> str:
    """A piece of an index's line, 26 wide."""
    return f'<path class="line {colour(index)}"{dashes(index)} d="M1 6H27"/>'
