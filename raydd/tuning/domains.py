"""The values that a search may give one setting."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raydd.config.parsing import Config

Kind = Literal["choice", "uniform", "log_uniform", "integer", "log_integer"]
KINDS: tuple[Kind, ...] = ("choice", "uniform", "log_uniform", "integer", "log_integer")
MAX_CHOICES = 1000
MAX_WHOLE = 10**15
"""Larger numbers are not exact in the arithmetic of draws."""


class Domain(Config):
    """What one setting may be: exactly one of the five kinds.

    Attributes:
        choice: One of these; any YAML values.
        uniform: A number between two, both included.
        log_uniform: The same, its logarithm drawn evenly.
        integer: A whole number between two, both included.
        log_integer: The same, its logarithm drawn evenly.
        step: Between the whole numbers of ``integer``.
        when: Searched only where this holds, of settings above it; elsewhere the setting keeps its value.
    """

    choice: tuple[Any, ...] | None = None
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    log_integer: tuple[int, int] | None = None
    step: Annotated[int, Field(ge=1)] = 1
    when: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> "Domain":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"a domain is one of {', '.join(KINDS)}; here is {found}")
        if self.choice is not None:
            _check_choice(self.choice)
            return self
        if self.whole and max(abs(self.low), abs(self.high)) > MAX_WHOLE:
            raise ValueError(f"{self.kind} [{self.low:g}, {self.high:g}] reaches beyond {MAX_WHOLE}; use uniform")
        if self.low > self.high:
            raise ValueError(f"{self.kind} [{self.low:g}, {self.high:g}] is empty; write the lower end first")
        if self.kind.startswith("log_") and self.low <= 0:
            raise ValueError(f"{self.kind} [{self.low:g}, {self.high:g}] needs ends above 0")
        if self.step > 1 and self.kind != "integer":
            raise ValueError(f"step {self.step} is for integer, not for {self.kind}; drop it")
        return self

    @property
    def kind(self) -> Kind:
        """Which of the five it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def low(self) -> float:
        """The lower end of what is no choice."""
        return float(getattr(self, self.kind)[0])

    @property
    def high(self) -> float:
        """The upper end of what is no choice."""
        return float(getattr(self, self.kind)[1])

    @property
    def log(self) -> bool:
        """Whether logarithms are drawn evenly."""
        return self.kind.startswith("log_")

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind.endswith("integer")

    def finite(self) -> Sequence[Any] | None:
        """All values, where they can be counted; None where they cannot.

        >>> Domain(integer=(2, 6), step=2).finite(), Domain(uniform=(0, 1)).finite()
        (range(2, 7, 2), None)
        """
        if self.choice is not None:
            return self.choice
        return range(int(self.low), int(self.high) + 1, self.step) if self.whole else None

    def extent(self) -> tuple[float, float] | None:
        """The least and the largest value; None where one is no number."""
        if self.choice is None:
            return self.low, self.high
        numbers = [value for value in self.choice if isinstance(value, int | float) and not isinstance(value, bool)]
        return (min(numbers), max(numbers)) if len(numbers) == len(self.choice) else None

    def has(self, value: Any) -> bool:
        """Whether a value is one of its."""
        if self.choice is not None:
            return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in self.choice)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return not self.whole or (value == int(value) and (int(value) - int(self.low)) % self.step == 0)

    def within(self, low: float, high: float) -> "Domain | None":
        """The part of it between two numbers; None where nothing is left. A choice stays as it is."""
        if self.choice is not None:
            return self
        low, high = max(low, self.low), min(high, self.high)
        if self.whole:
            low = self.low + self.step * math.ceil(round((low - self.low) / self.step, 9))
            high = self.low + self.step * math.floor(round((high - self.low) / self.step, 9))
        if low > high:
            return None
        ends = (int(low), int(high)) if self.whole else (low, high)
        return self.model_copy(update={self.kind: ends})

    def at(self, share: float) -> Any:
        """The value that a share in [0, 1) of its values lies below."""
        values = None if self.log else self.finite()
        if values is not None:
            return values[int(share * len(values))]
        low, high = self.low, self.high + self.whole
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        value = min(max(value, self.low), self.high)
        return int(value) if self.whole else value

    def ends(self) -> tuple[float, float]:
        """The lower and the upper end of what is no choice, whole where its values are."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


def _check_choice(choice: tuple[Any, ...]) -> None:
    if not choice:
        raise ValueError("choice [] is empty; give at least one value")
    if len(choice) > MAX_CHOICES:
        raise ValueError(f"choice has {len(choice)} values, at most {MAX_CHOICES}; use integer or uniform")
    if any(value in choice[:index] for index, value in enumerate(choice)):
        raise ValueError(f"choice {list(choice)} has a value twice; give each once")
