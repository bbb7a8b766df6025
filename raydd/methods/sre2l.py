"""Squeeze, recover and relabel: images that an expert classifies, and whose statistics its batch norm knows.

    CE(f(A(S)), y) + 0.01 sum_l (|mean_l - m_l| + |var_l - v_l|),

over the batch norms l of an expert and their running statistics; the experts' mean probabilities are the labels.

Reference:
    Yin et al., arXiv 2306.13092 (SRe2L).

Differs:
    The paper recovers images one batch after another by an expert of its own and asks it again about every crop in
    training; here all images of a step are one batch, and an image keeps one label, as `raydd relabel` gives.
"""

from raydd.distillation.inversion import invert
from raydd.methods.method import Method

METHOD = Method(
    name="sre2l",
    about=__doc__,
    match="statistics",
    defaults={
        "initial": "noise",
        "steps": 4000,
        "checkpoint_every": 200,
        "lr": {"images": 0.25, "lr": 0.0, "optimizer": "adam"},
        "experts": {"network": "ConvNetW32BN", "optimizer": "momentum", "num_experts": 1},
        "statistic": {"networks": "experts", "of": "batch_norm", "alpha": 0.01},
    },
    compose=invert,
)
