"""The budget of a campaign: hours on the clock, and hours of GPUs at work."""

import time
from typing import NamedTuple


class Limits(NamedTuple):
    """A budget, after which nothing more starts: hours on the clock, and hours of GPUs at work."""

    hours: float | None = None
    gpu_hours: float | None = None


NO_LIMITS = Limits()


class Budget:
    """What of the limits is spent, since it was made.

    >>> budget = Budget(Limits(gpu_hours=1.0))
    >>> budget.gpu_seconds += 1800
    >>> budget.may_start
    True
    >>> budget.gpu_seconds += 1800
    >>> budget.may_start
    False
    """

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        self._limits, self._begin = limits, time.monotonic()
        self.gpu_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Seconds on the clock."""
        return time.monotonic() - self._begin

    @property
    def may_start(self) -> bool:
        """Whether more may start."""
        hours, gpu_hours = self._limits
        in_time = hours is None or self.seconds < 3600 * hours
        return in_time and (gpu_hours is None or self.gpu_seconds < 3600 * gpu_hours)
