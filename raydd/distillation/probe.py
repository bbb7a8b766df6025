"""Looking at a distillation while it runs: how well it matches an expert that takes no part, and its memory.

Shapes: `T` start epochs, `K` classes.
"""

import resource
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raydd.buffer.segments import Segment
from raydd.data.synset import SyntheticSet
from raydd.distillation.trajectory_objective import TrajectoryMatching, undisturbed
from raydd.numerics.distances import normalized_mse
from raydd.numerics.rng import generator


@dataclass(frozen=True, eq=False)
class Probe:
    """Measures the matching loss on one expert, from every epoch that leaves room for a segment.

    The loss is Eq. 1 of the papers whatever the method adds to it: over all parameters, at the end of the
    segment, from weights as the expert had them; students train as the method's do. Every measure draws the
    same batches and views, so that two of them differ by the synthetic set alone.

    Attributes:
        objective: What the run matches.
        expert: The number of the expert that takes no part.
        seed: The run's.

    Reference:
        Guo et al., arXiv 2310.05773, Fig. 10 and appendix A.6.
    """

    objective: TrajectoryMatching
    expert: int
    seed: int

    @torch.no_grad()
    def losses(self, synset: SyntheticSet, epochs: Sequence[int] | None = None) -> list[float]:
        """The matching loss (T,) from each start epoch; None takes all: 0 to K - M."""
        plain = replace(self.objective, distance=normalized_mse, disturb=undisturbed, backprop="adjoint")
        last = plain.source.epochs - plain.span
        starts = range(last + 1) if epochs is None else epochs
        return [float(plain.match(synset, self._segment(t), generator(self.seed, "probe", t))) for t in starts]

    def _segment(self, t: int) -> Segment:
        source, span = self.objective.source, self.objective.span
        start, target = source.snapshot(self.expert, t), source.snapshot(self.expert, t + span)
        return Segment(start, target, float(t), None, self.expert)


def label_spread(synset: SyntheticSet) -> float | None:
    """The standard deviation over the K classes of each image's soft label (ddof 0), averaged; None for classes.

    Reference:
        Guo et al., arXiv 2310.05773, Fig. 6.
    """
    if synset.label_kind == "hard":
        return None
    return float(synset.targets.double().std(dim=1, correction=0).mean())


def memory(device: torch.device) -> dict[str, float | None]:
    """Memory of this process now, in MB, and the most its tensors have taken on a GPU; None on the CPU.

    What a process holds rises to what it needed at most: see `raydd.io.memory`.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        resident = pages * resource.getpagesize() / 1e6
    except OSError:  # no Linux: the most it has ever been
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    return {"resident_mb": round(resident, 1), "device_mb": None if peak is None else round(peak, 1)}
