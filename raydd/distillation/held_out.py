"""The matching loss on an expert that is held out of a distillation.

Shapes: `T` start epochs, `K` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from raydd.buffer.segments import Segment
from raydd.data.synset import SyntheticSet
from raydd.numerics.distances import normalized_mse
from raydd.numerics.rng import generator

if TYPE_CHECKING:
    from raydd.distillation.trajectory_matching import TrajectoryMatching


@dataclass(frozen=True, eq=False)
class Probe:
    """Measures the matching loss on a held-out expert, from every epoch that leaves room for a segment.

    The loss is Eq. 1 of the papers whatever the method adds to it: over all parameters, at the end of the segment, from
    the expert's own weights. Students train as the method's do. Every measure draws the same batches and views, so that
    two measures differ by the synthetic set alone.

    Reference:
        Guo et al., arXiv 2310.05773, Fig. 10 and appendix A.6.
    """

    objective: "TrajectoryMatching"
    expert: int
    seed: int

    @torch.no_grad()
    def losses(self, synset: SyntheticSet, epochs: Sequence[int] | None = None) -> list[float]:
        """Return the matching loss (T,) from each start epoch; None takes all, 0 to K - M."""
        plain = replace(self.objective, distance=normalized_mse, disturb=None, backprop="adjoint")
        last = plain.source.epochs - plain.span
        starts = range(last + 1) if epochs is None else epochs
        return [float(plain.match(synset, self._segment(t), generator(self.seed, "probe", t))) for t in starts]

    def _segment(self, t: int) -> Segment:
        source, span = self.objective.source, self.objective.span
        start, target = source.snapshot(self.expert, t), source.snapshot(self.expert, t + span)
        return Segment(start, target, float(t), None, self.expert)


def label_spread(synset: SyntheticSet) -> float | None:
    """Return the standard deviation (ddof 0) of an image's soft label over the K classes, averaged; None without one.

    Reference:
        Guo et al., arXiv 2310.05773, Fig. 6.
    """
    if synset.label_kind != "logits":
        return None
    return float(synset.targets.double().std(dim=1, correction=0).mean())
