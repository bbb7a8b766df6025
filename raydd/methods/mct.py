"""Matching Convexified Trajectories: experts walk straight from their start to their end.

MTT's loss on theta(c) = (1 - b) theta*_0 + b theta*_K, where b grows from 0 to 1 with the length that the expert has
walked, and c is a continuous epoch. The lines are made of any buffer as it is read, or as it is written
(``experts.kept``).

Reference:
    Zhong et al., arXiv 2406.19827, Eq. 7-10.

Differs:
    The gradient is exact; the official code has TESLA's, halved.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="mct",
    about=__doc__,
    defaults={"convexify": True, "window": {"continuous": True}},
    ablation={
        "MTT": {"convexify": False, "waypoints": (), "window": {"continuous": False}},
        "+ straight lines": {"window": {"continuous": False}},
        "+ continuous epochs": {},
    },
)
