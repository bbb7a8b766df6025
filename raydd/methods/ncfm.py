"""Neural characteristic function matching: characteristic functions of features agree at random frequencies.

Features are taken between an expert's start and its end, which classifies the synthetic images.

Reference:
    Wang et al., arXiv 2502.20653 (NCFM), and its official code.

Differs:
    The code's separate pass of cross-entropy shares the step here; its sampler of frequencies, which no published
    setting switches on, is left out. The code evaluates by what protocol ``ncfm`` is, but reports the best epoch on
    the test images; users of it report several points less.
"""

from raydd.methods.method import Method
from raydd.methods.tgdd import SHARED, STATISTIC

METHOD = Method(
    name="ncfm",
    about=__doc__,
    match="statistics",
    defaults=SHARED
    | {
        "steps": 20000,
        "lr": {"images": 0.01, "lr": 0.0, "optimizer": "adamw", "patience": 500},
        "statistic": STATISTIC
        | {"networks": "mixed", "of": "unit_features", "distance": "characteristic", "alpha": 1.0, "batch_real": 1024},
    },
)
