"""Early stopping of poor architectures: asynchronous successive halving."""

from collections.abc import Hashable
from typing import NamedTuple


class Rungs(NamedTuple):
    """The epochs at which accuracies are compared, and the share that continues."""

    epochs: tuple[int, ...]
    reduction: int

    @staticmethod
    def geometric(epochs: int, first: int, reduction: int) -> "Rungs":
        """Return rungs at first, first * eta, first * eta^2, ... below the last epoch, or raise ValueError.

        >>> Rungs.geometric(300, 20, 3).epochs
        (20, 60, 180)
        """
        if not 1 <= first < epochs:
            raise ValueError(f"a first rung after {first} of {epochs} epochs: use 1 to {epochs - 1}")
        if reduction < 2:
            raise ValueError(f"a reduction of {reduction}: use at least 2, with which one in two goes on")
        rungs = [first]
        while rungs[-1] * reduction < epochs:
            rungs.append(rungs[-1] * reduction)
        return Rungs(tuple(rungs), reduction)


class SuccessiveHalving:
    """Lets a training continue if it is among the best 1 / eta of all that reached its rung before, or as good.

    The first at a rung continues. With more than one worker, timing therefore decides which trainings are stopped, but
    not the results of those that continue. (Optuna's and Ray Tune's schedulers need a study or trials of their own.)

    Reference:
        Li et al., arXiv 1810.05934 (ASHA), in its variant that stops instead of promoting.

    >>> halving = SuccessiveHalving(2)
    >>> [halving.keep_training("proxy", 10, name, value) for name, value in (("a", 0.5), ("b", 0.4), ("c", 0.6))]
    [True, False, True]
    """

    def __init__(self, reduction: int) -> None:
        self._reduction = reduction
        self._reached: dict[tuple[Hashable, int], dict[str, tuple[float, bool]]] = {}

    def keep_training(self, group: Hashable, epoch: int, name: str, value: float) -> bool:
        """Record a training's accuracy at a rung, and compare it within its group.

        Asking again, after a restart, gives the same answer.
        """
        reached = self._reached.setdefault((group, epoch), {})
        if name not in reached:
            others = sorted((other for other, _ in reached.values()), reverse=True)
            reached[name] = value, not others or value >= others[len(others) // self._reduction]
        return reached[name][1]
