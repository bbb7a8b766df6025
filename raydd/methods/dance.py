"""Dual-view distribution alignment: DM through mixtures of an expert's start and end, judged by its end.

Mean features are compared at u theta_0 + (1 - u) theta_K, and f(theta_K) classifies the synthetic images.

Reference:
    Zhang et al., arXiv 2406.01063, sections 3.2 and 3.3; the learning rate of images is its published code's.

Differs:
    Both terms are in one optimiser step a class; the official code steps on the cross-entropy in a pass of its own,
    with views drawn anew. Its experts are trained with CutMix besides.
"""

from raydd.methods.method import Method
from raydd.methods.tgdd import IMAGE_RATES, SHARED, STATISTIC

METHOD = Method(
    name="dance",
    about=__doc__,
    match="statistics",
    defaults=SHARED | {"statistic": STATISTIC | {"networks": "mixed", "alpha": 1.0}},
    image_rates=IMAGE_RATES,
)
