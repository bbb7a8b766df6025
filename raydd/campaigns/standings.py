"""The order of a table's rows by what can be told apart, and what cannot: ties.

Sets of one method are distillations of other seeds, with the same experts and the settings of one search, on both of
which an order depends; a set's value is the mean over its networks.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from raydd.evaluation.significance import holm, welch

LEVEL = 0.05


class Standing(NamedTuple):
    """A row's place in an order.

    Attributes:
        row: Its name.
        place: 1 for the best rows; rows of one place are tied.
        behind: How far it is behind the best row of its place; 0 for that row.
        low: The lower end of the 95 % interval of that; None without a test.
        high: The upper end.
        p: Of the test that it is as good as that row, adjusted for all rows that are compared with it.
    """

    row: str
    place: int
    behind: float = 0.0
    low: float | None = None
    high: float | None = None
    p: float | None = None


def standings(values: Mapping[str, Sequence[float]]) -> list[Standing]:
    """Return rows from the best to the worst, each place led by the best row that is left.

    A place ends before the first row that Welch's test of sets' values tells from its leader, at 5 % after Holm's
    adjustment over all rows that are left: that row leads the next place. So no row has a better place than one of a
    higher mean. A row of one set cannot be told from any other.

    >>> order = standings({"a": [0.9, 0.91, 0.92], "b": [0.5, 0.51, 0.52], "c": [0.9, 0.92, 0.91]})
    >>> [(one.row, one.place) for one in order]
    [('a', 1), ('c', 1), ('b', 2)]
    """
    left = sorted(values, key=lambda row: -statistics.fmean(values[row]))
    order: list[Standing] = []
    place = 1
    while left:
        leader, others = left[0], left[1:]
        tests = [welch(values[leader], values[row]) for row in others]
        adjusted = holm(test.p for test in tests)
        order.append(Standing(leader, place))
        ties = next((index for index, p in enumerate(adjusted) if p is not None and p < LEVEL), len(others))
        for row, test, p in zip(others[:ties], tests[:ties], adjusted[:ties], strict=True):
            order.append(Standing(row, place, test.difference, test.low, test.high, p))
        left, place = others[ties:], place + 1
    return order
