"""Early stopping of hopeless architectures: asynchronous successive halving."""

from collections.abc import Hashable
from typing import NamedTuple


class Rungs(NamedTuple):
    """When accuracies are compared, and how few go on.

    Attributes:
        epochs: After which epochs, ascending.
        reduction: eta: about one in so many goes on from each.
    """

    epochs: tuple[int, ...]
    reduction: int

    @staticmethod
    def geometric(epochs: int, first: int, reduction: int) -> "Rungs":
        """Rungs at first, first * eta, first * eta^2, ... below the last epoch.

        Raises:
            ValueError: ``first`` is not between 1 and the last epoch, or ``reduction`` is under 2.

        >>> Rungs.geometric(300, 20, 3).epochs
        (20, 60, 180)
        """
        if not 1 <= first < epochs:
            raise ValueError(f"a first rung after {first} of {epochs} epochs: use 1 to {epochs - 1}")
        if reduction < 2:
            raise ValueError(f"a reduction of {reduction}: use at least 2, of which one in two goes on")
        found = [first]
        while found[-1] * reduction < epochs:
            found.append(found[-1] * reduction)
        return Rungs(tuple(found), reduction)


class Halving:
    """Decides at every rung who goes on: those among the best 1 / eta of all that came to it before, or as good.

    The first to come to a rung goes on. So who is stopped depends on who comes first, and with more than one worker on
    chance; what those that go on come to does not.

    Reference:
        Li et al., arXiv 1810.05934 (ASHA), in its variant that stops instead of promoting.

    >>> halving = Halving(2)
    >>> [halving.goes_on("proxy", 10, name, value) for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.6))]
    [True, False, True]
    """

    def __init__(self, reduction: int) -> None:
        self._reduction = reduction
        self._seen: dict[tuple[Hashable, int], dict[str, tuple[float, bool]]] = {}

    def goes_on(self, group: Hashable, epoch: int, name: str, value: float) -> bool:
        """Take an accuracy at a rung; who comes again, after a restart, is told the same.

        Args:
            group: Only members of one are compared.
            epoch: The rung.
            name: Who.
            value: Its accuracy.
        """
        before = self._seen.setdefault((group, epoch), {})
        if name not in before:
            others = sorted((found for found, _ in before.values()), reverse=True)
            before[name] = value, not others or value >= others[len(others) // self._reduction]
        return before[name][1]
