"""The values of one searched setting."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raydd.config.parsing import Config

Kind = Literal["choice", "uniform", "log_uniform", "integer", "log_integer"]
KINDS: tuple[Kind, ...] = ("choice", "uniform", "log_uniform", "integer", "log_integer")
MAX_CHOICES = 1000
MAX_WHOLE = 10**15
"""Larger integers are not exact in the arithmetic of draws."""


class Domain(Config):
    """The values of a setting: exactly one of the five kinds.

    Attributes:
        choice: One of these values; any YAML values.
        uniform: A number between two ends, both included.
        log_uniform: The same, with a uniform logarithm.
        integer: An integer between two ends, both included.
        log_integer: The same, with a uniform logarithm.
        step: The distance between the values of ``integer``.
        when: A condition on settings above it. Where it is false, the setting is not searched and keeps its value.
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
            raise ValueError(
                f"a domain has one of {', '.join(KINDS)}; this has {' and '.join(given) or 'none of them'}"
            )
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
        """The one kind that is set."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def low(self) -> float:
        """The lower end, as an integer where the values are; not for a choice."""
        return getattr(self, self.kind)[0]  # type: ignore[no-any-return]

    @property
    def high(self) -> float:
        """The upper end, as an integer where the values are; not for a choice."""
        return getattr(self, self.kind)[1]  # type: ignore[no-any-return]

    @property
    def log(self) -> bool:
        """Whether the logarithm is uniform."""
        return self.kind.startswith("log_")

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        return self.kind.endswith("integer")

    def finite(self) -> Sequence[Any] | None:
        """Return all values; None where their number is not finite.

        >>> Domain(integer=(2, 6), step=2).finite(), Domain(uniform=(0, 1)).finite()
        (range(2, 7, 2), None)
        """
        if self.choice is not None:
            return self.choice
        return range(int(self.low), int(self.high) + 1, self.step) if self.whole else None

    def extent(self) -> tuple[float, float] | None:
        """Return the smallest and the largest value; None where one is not a number."""
        if self.choice is None:
            return self.low, self.high
        numbers = [value for value in self.choice if isinstance(value, int | float) and not isinstance(value, bool)]
        return (min(numbers), max(numbers)) if len(numbers) == len(self.choice) else None

    def has(self, value: Any) -> bool:
        """Return whether a value is in the domain."""
        if self.choice is not None:
            return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in self.choice)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return not self.whole or (value == int(value) and (int(value) - int(self.low)) % self.step == 0)

    def within(self, low: float, high: float) -> "Domain | None":
        """Return the part between two numbers; None where it is empty. A choice is returned unchanged."""
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
        """Return the quantile of a share in [0, 1)."""
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


def _check_choice(choice: tuple[Any, ...]) -> None:
    if not choice:
        raise ValueError("choice [] is empty; give at least one value")
    if len(choice) > MAX_CHOICES:
        raise ValueError(f"choice has {len(choice)} values, at most {MAX_CHOICES}; use integer or uniform")
    if any(value in choice[:index] for index, value in enumerate(choice)):
        raise ValueError(f"choice {list(choice)} has a value twice; give each once")
