"""Search the range of start epochs by trial: DATM's appendix A.6.

A trial distills a few steps with one range, and measures the matching loss on a held-out expert before and after.

Shapes: `T` start epochs 0 to K - M.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple, cast

import torch

from raydd.buffer.segments import Segment, TrajectorySource
from raydd.config.components import WindowConfig
from raydd.distillation.loop import Distillation, Step
from raydd.distillation.setup import Setup
from raydd.figures.curves import draw_window
from raydd.figures.style import save_figure
from raydd.io.document import write_document
from raydd.methods import find_method
from raydd.numerics.windows import fixed
from raydd.run.experts import without_last
from raydd.run.resolve import RunContext

PILOT_STEPS = 50
WIDTH = 10
STRIDE = 5


class Trial(NamedTuple):
    """The result of distilling with one range of start epochs.

    The matching losses (T,) are those on the held-out expert; ``missed`` are the start epochs of losses above 1.
    """

    low: int
    high: int
    before: Sequence[float]
    after: Sequence[float]
    missed: Sequence[int]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a loss that is not finite is None."""
        losses = {name: [x if math.isfinite(x) else None for x in getattr(self, name)] for name in ("before", "after")}
        return self._asdict() | losses

    def harms(self, part: slice) -> bool:
        """Whether the mean loss over a part of the start epochs rose, or diverged."""
        return not sum(self.after[part]) <= sum(self.before[part])


@dataclass(frozen=True)
class Search:
    """A range, and the trials that led to it."""

    low: int
    current: int
    high: int
    trials: tuple[Trial, ...]

    def window(self, settings: WindowConfig) -> WindowConfig:
        """Return the window as settings."""
        return settings.model_copy(update={"low": self.low, "current": self.current, "high": self.high, "auto": False})

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "trials": [trial.to_json() for trial in self.trials]}


def search(pilot: Callable[[int, int], Trial], last: int) -> Search:
    """Return T-, T and T+.

    T- = 0 and T+ = `WIDTH` move up together while distilling raises the loss over the later half of the
    expert's start epochs; then T+ alone moves up until distilling raises the loss over the earlier half, and
    the last range that did not is taken. T is the least start epoch whose loss was above 1 with that range,
    and T+ where none was.

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


class _RecordedSource:
    """A source that records the start epochs of its segments."""

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


def with_window(context: RunContext, note: Callable[[str], None]) -> RunContext:
    """Return the run with the window that trial finds, where its settings ask for one; see `find_window`."""
    if not context.config.window.auto:
        return context
    note(f"window: trying ranges of start epochs, {PILOT_STEPS} outer steps each")
    result = find_window(context, note)
    write_document(context.folder / "window.json", result.to_json())
    save_figure(draw_window(result.to_json()), context.folder / "window.png")
    window = result.window(context.config.window)
    return replace(context, config=context.config.model_copy(update={"window": window}))


def find_window(context: RunContext, note: Callable[[str], None]) -> Search:
    """Search with trials of the method itself, always from the same start; the buffer's last expert is held out."""
    config, buffer = context.config, context.buffer
    assert buffer is not None
    whole = config.model_copy(update={"window": WindowConfig(continuous=config.window.continuous)})
    recipe = find_method(config.method)(Setup(whole, context.work, without_last(buffer)))
    if recipe.probe is None:
        raise ValueError(f"window.auto: method {config.method} matches no trajectories; set window.high instead")
    probe = recipe.probe(buffer.experts[-1])
    matched = probe.objective  # without the terms that are added to it
    start = probe.losses(recipe.synset)

    def pilot(low: int, high: int) -> Trial:
        recorded = _RecordedSource(matched.source)
        objective = replace(matched, source=cast(TrajectorySource, recorded), window=fixed(low, high))
        # Without the running mean of the images, which fifty steps hardly move.
        run = Distillation(objective, recipe.synset, recipe.learn, config.seed, gate=recipe.gate)
        steps, after = list[Step](), [math.inf] * len(start)
        with suppress(FloatingPointError):  # distilling with this range harms all of it
            for step in run.run(PILOT_STEPS):
                steps.append(step)
            after = probe.losses(run.result)
        missed = [int(t) for t, step in zip(recorded.starts, steps, strict=False) if not step.loss <= 1]
        trial = Trial(low, high, tuple(start), after, missed)
        note(f"window {low}-{high}: mean loss {fmean(trial.before):.4f} -> {fmean(trial.after):.4f}")
        return trial

    return search(pilot, buffer.epochs - config.span)
