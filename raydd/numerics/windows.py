"""Windows: the range of start epochs of an outer step.

A window maps the outer step to the closed range (low, high) of start epochs.
"""

from collections.abc import Callable

Window = Callable[[int], tuple[float, float]]


def fixed(low: float, high: float) -> Window:
    """Return the window of the same range, T- to T+ in epochs, at every step: arXiv 2203.11932, Algorithm 1.

    >>> fixed(0, 20)(137)
    (0, 20)
    """
    return lambda step: (low, high)


def growing(low: float, current: float, high: float, interval: int) -> Window:
    """Return a window whose upper end grows by one epoch every ``interval`` outer steps.

    Args:
        low: T-, in epochs.
        current: T, the upper end at step 0, in epochs.
        high: T+, the last upper end, in epochs; included.
        interval: I, outer steps an epoch of growth.

    Reference: Guo et al., arXiv 2310.05773, Algorithm 1.
    Differs: The official sampling leaves the upper end out; this one includes it, as Algorithm 1 does. As printed,
        Algorithm 1 grows T at step 0 too; here T stays for I steps first.

    >>> window = growing(0, 2, 4, interval=10)
    >>> [window(step) for step in (0, 9, 10, 25, 999)]
    [(0, 2), (0, 2), (0, 3), (0, 4), (0, 4)]
    """
    if not low <= current <= high:
        raise ValueError(f"window {low}, {current}, {high}: T- <= T <= T+ must hold; set window.low, .current, .high")
    if interval < 1:
        raise ValueError(f"window.interval {interval} must be at least 1 outer step")
    return lambda step: (low, min(high, current + step // interval))
