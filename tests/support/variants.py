"""Variants of one test: the default run has the first ones, and `-m slow` the others."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def first(values: Iterable[Any], most: int = 2, keep: Collection[Any] = ()) -> list[Any]:
    """Return a parameter for every value, of which all but the first ones and those to ``keep`` are slow."""
    return [
        value if place < most or value in keep else pytest.param(value, marks=pytest.mark.slow)
        for place, value in enumerate(values)
    ]


def first_rows(rows: Iterable[tuple[Any, ...]], most: int = 2) -> list[Any]:
    """Return parameters for rows of several values, of which all but the first ones are slow."""
    return [row if place < most else pytest.param(*row, marks=pytest.mark.slow) for place, row in enumerate(rows)]
