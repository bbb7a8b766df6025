"""Aligning features: mean features of every layer agree, and synthetic means classify real images.

    sum_l w_l mean_c |mean f_l(T_c) - mean f_l(S_c)|^2 + beta sum_i CE(f(x_i) M^T, y_i),

where the rows of M are the mean features of the synthetic images of each class.

Reference:
    Wang et al., arXiv 2203.01531 (CAFE), with the weights of its official code.

Differs:
    The paper trains its network on the synthetic images until the spread of ten accuracies is small, and begins with a
    fresh one when that of ten loops is; here both lengths are fixed (``statistic.epochs``, ``statistic.refresh``).
    Distances are summed over the features and averaged over the classes.
"""

from raydd.distillation.feature_alignment import align_features
from raydd.methods.method import Method

METHOD = Method(
    name="cafe",
    about=__doc__,
    match="statistics",
    defaults={
        "steps": 2000,
        "checkpoint_every": 100,
        "lr": {"images": 0.1, "lr": 0.0},
        "statistic": {"networks": "trained", "of": "layers", "refresh": 10, "epochs": 10},
    },
    compose=align_features,
)
