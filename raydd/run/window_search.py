"""Finding the range of start epochs by trial: DATM's appendix A.6.

A trial distills a few steps with one range and looks at what that did to the matching loss on an expert that
takes no part. The decider asks for trials and knows nothing of how they are made.

Shapes: `T` start epochs 0 to K - M.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, cast

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.segments import Segment, TrajectorySource
from raydd.config.schema import DistillConfig, WindowConfig
from raydd.data.workspace import Workspace
from raydd.distillation.loop import Distillation, Step
from raydd.distillation.recipe import Setup
from raydd.distillation.trajectory_objective import TrajectoryMatching
from raydd.methods import METHODS
from raydd.numerics.windows import fixed
from raydd.run.experts import without_last

PILOT_STEPS = 50
WIDTH = 10
STRIDE = 5


class Trial(NamedTuple):
    """What distilling with one range of start epochs did.

    Attributes:
        low: T-.
        high: T+.
        before: Matching loss (T,) on the expert that takes no part, from each start epoch, at the start.
        after: The same after `PILOT_STEPS` outer steps.
        missed: Start epochs of the steps whose loss was above 1: no closer than the start.
    """

    low: int
    high: int
    before: Sequence[float]
    after: Sequence[float]
    missed: Sequence[int]

    def to_json(self) -> dict[str, Any]:
        """As plain values; a loss that is not finite is None."""
        losses = {name: [x if math.isfinite(x) else None for x in getattr(self, name)] for name in ("before", "after")}
        return self._asdict() | losses

    def harms(self, part: slice) -> bool:
        """Whether the mean loss over a part of the start epochs rose."""
        return not sum(self.after[part]) <= sum(self.before[part])  # a student that diverged is harmed too


@dataclass(frozen=True)
class Search:
    """A range that was found, and the trials that led there."""

    low: int
    current: int
    high: int
    trials: tuple[Trial, ...]

    def window(self, asked: WindowConfig) -> WindowConfig:
        """The window as settings."""
        return asked.model_copy(update={"low": self.low, "current": self.current, "high": self.high, "auto": False})

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "trials": [trial.to_json() for trial in self.trials]}


def search(pilot: Callable[[int, int], Trial], last: int) -> Search:
    """Decide on T-, T and T+.

    T- = 0 and T+ = `WIDTH` move up together while distilling raises the loss over the later half of the
    expert's start epochs; then T+ alone moves up until distilling raises the loss over the earlier half, and
    the last range that did not is taken. T is the least start epoch whose loss was above 1 with that range,
    and T+ where none was.

    Args:
        pilot: Makes a trial of a range (low, high).
        last: K - M, the last start epoch there is.

    Reference:
        Guo et al., arXiv 2310.05773, appendix A.6.

    Differs:
        The paper says neither what the former and latter part are, nor how far a move goes: here halves of the
        start epochs, and `STRIDE` epochs.
    """
    middle = (last + 1) // 2
    former, latter = slice(0, middle), slice(middle, last + 1)
    trials = [pilot(0, min(WIDTH, last))]
    while trials[-1].high < last and trials[-1].harms(latter):
        high = min(trials[-1].high + STRIDE, last)
        trials.append(pilot(trials[-1].low + high - trials[-1].high, high))
    best = trials[-1]
    while best.high < last:
        trials.append(pilot(best.low, min(best.high + STRIDE, last)))
        if trials[-1].harms(former):
            break
        best = trials[-1]
    missed = [epoch for epoch in best.missed if epoch >= best.low]
    return Search(best.low, min(missed, default=best.high), best.high, tuple(trials))


class _Noting:
    """A source that notes from which epochs it was asked to start."""

    def __init__(self, source: TrajectorySource) -> None:
        self._source, self.starts = source, list[float]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def segment(
        self, window: tuple[float, float], span: int, rng: torch.Generator, *, between: bool = False
    ) -> Segment:
        segment = self._source.segment(window, span, rng, between=between)
        self.starts.append(segment.epoch)
        return segment


def find_window(config: DistillConfig, buffer: ArrowBuffer, work: Workspace, tell: Callable[[str], None]) -> Search:
    """Search with trials of the method itself, always from the same start; the buffer's last expert is looked at.

    Raises:
        ValueError: The buffer has one expert, or the method matches no trajectories.
    """
    whole = WindowConfig(continuous=config.window.continuous)
    recipe = METHODS[config.method](Setup(config.model_copy(update={"window": whole}), work, without_last(buffer)))
    if recipe.probe is None:
        raise ValueError(f"window.auto: method {config.method} matches no trajectories; set window.high instead")
    look, matched = recipe.probe(buffer.experts[-1]), cast(TrajectoryMatching, recipe.objective)
    start = look.losses(recipe.synset)

    def pilot(low: int, high: int) -> Trial:
        noting = _Noting(matched.source)
        objective = replace(matched, source=cast(TrajectorySource, noting), window=fixed(low, high))
        # Without the running mean of the images, which fifty steps hardly move.
        run = Distillation(objective, recipe.synset, recipe.learn, config.seed, gate=recipe.gate)
        steps, after = list[Step](), [math.inf] * len(start)
        with suppress(FloatingPointError):  # distilling with this range harms all of it
            for step in run.run(PILOT_STEPS):
                steps.append(step)
            after = look.losses(run.result)
        missed = [int(t) for t, step in zip(noting.starts, steps, strict=False) if not step.loss <= 1]
        trial = Trial(low, high, tuple(start), after, missed)
        tell(f"window {low}-{high}: mean loss {_mean(trial.before):.4f} -> {_mean(trial.after):.4f}")
        return trial

    return search(pilot, buffer.epochs - config.span)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
