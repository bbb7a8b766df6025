"""Improved Distribution Matching: DM through a queue of networks that are trained on real images.

The same network classifies the synthetic images, with a weight that grows with its accuracy.

Reference:
    Zhao et al., arXiv 2307.09742, sections 4.1-4.3.

Differs:
    The official code multiplies its weight with an accuracy in per cent, so that 0.5 there is 50 here.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="idm",
    about=__doc__,
    match="statistics",
    defaults={
        "steps": 20000,
        "checkpoint_every": 500,  # a hundred networks each
        "formation": {"factor": 2},
        "lr": {"images": 0.2, "lr": 0.0},
        "statistic": {"networks": "queue", "each_class": True, "alpha": 50.0, "refresh": 30},
    },
)
