"""Where a value lies in a chart: scales, ticks, and series of few enough points.

Shapes: none; series are sequences of n values, places are in units of the chart's view box.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

MOST_POINTS = 400
TICKS = 7


class Axis(NamedTuple):
    """A scale.

    Attributes:
        low: The value at ``start``.
        high: The value at ``end``.
        start: A place.
        end: The other.
        log: Whether equal steps are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value.

        >>> Axis(0, 10, 100, 200).at(2.5), Axis(1, 100, 0, 10, log=True).at(10)
        (125.0, 5.0)
        """
        low, high, value = (math.log10(each) if self.log else each for each in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = TICKS, *, whole: bool = False) -> list[tuple[float, str]]:
        """Round values between low and high, or whole ones alone, with what to write beside them.

        >>> Axis(0, 10, 0, 1).ticks()
        [(0.0, '0'), (2.0, '2'), (4.0, '4'), (6.0, '6'), (8.0, '8'), (10.0, '10')]
        """
        if self.log and self.high / self.low >= 10:
            return _decades(self.low, self.high)
        step = _round_step((self.high - self.low) / count)
        step = max(step, 1.0) if whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(index * step, _label(index * step, step)) for index in range(first, last + 1)]


def axis(values: Iterable[float], start: float, end: float, *, log: bool = False, zero: bool = False) -> Axis:
    """A scale that holds all values with a little room.

    Args:
        values: What shall lie between; at least one.
        start: The place of the least.
        end: The place of the most.
        log: Equal steps are equal factors; all values are above 0.
        zero: 0 lies on it too, without room beyond.
    """
    found = [*values, *([0.0] if zero else [])]
    low, high = min(found), max(found)
    if log:
        room = (high / low) ** 0.04 if high > low else 2.0
        return Axis(low / room, high * room, start, end, log=True)
    room = 0.04 * (high - low) if high > low else abs(high) / 10 or 1.0
    below, above = (0.0 if zero and edge == 0 else room for edge in (low, high))
    return Axis(low - below, high + above, start, end)


def drawable(value: float | None, log: bool = False) -> bool:
    """Whether there is a place for it: None, NaN and infinities have none, nor has 0 on a logarithmic scale."""
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def buckets(count: int, most: int = MOST_POINTS) -> list[range]:
    """Neighbouring indices together, at most half of ``most`` ranges where there are more than ``most`` indices.

    >>> buckets(3)
    [range(0, 1), range(1, 2), range(2, 3)]
    >>> len(buckets(100_000))
    199
    """
    if count <= most:
        return [range(index, index + 1) for index in range(count)]
    parts = most // 2 - 1
    edges = [place * count // parts for place in range(parts + 1)]
    return [range(start, end) for start, end in pairwise(edges)]


def thin(values: Sequence[float | None], most: int = MOST_POINTS, log: bool = False) -> list[int]:
    """Indices of at most ``most`` values that keep the first, the last, every spike and every gap.

    Of each bucket of neighbours the least and the largest stay, and where it has a gap one index of it.
    """
    kept = {0, len(values) - 1} if values else set()
    for bucket in buckets(len(values), most):
        there = [(value, at) for at in bucket if (value := values[at]) is not None and drawable(value, log)]
        kept |= {min(there)[1], max(there)[1]} if there else set()
        kept |= {at for at in bucket if not drawable(values[at], log)}
    return sorted(kept)


def number(value: float) -> str:
    """A value in at most four digits that count.

    >>> number(87.1429), number(1293), number(0.00012), number(-3.0)
    ('87.14', '1293', '0.00012', '-3')
    """
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}" if abs(value) < 1e7 else f"{value:.3g}"


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9)) * power


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = -(-(last - first) // TICKS)
    digits = (1,) if last - first > 2 else (1, 3)
    values = [digit * 10.0**power for power in range(first, last + 1, every) for digit in digits]
    return [(value, _label(value, value)) for value in values if low <= value <= high]


def _label(value: float, step: float) -> str:
    if value == 0 or abs(value) < step * 1e-6:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}"
