"""Neural feature regression with pooling: ridge regression on a network's features predicts real labels.

    L = 1/2 mean |K_ts (K_ss + lambda I)^-1 y_s - y_t|^2 - mean min(margin of y_s, 1/K), K_ts = f_t f_s^T,

where the features f are those of networks in a pool that are trained on the synthetic set along the way. The labels y_s
are learned too, as targets of a regression, from one-hot ones less 1/K; their margin is how far the largest is above
the next one. A network that is evaluated learns them by the squared error.

Reference:
    Zhou et al., arXiv 2206.00719 (FRePo), Algorithm 1; the margin: its official code.

Differs:
    Adam takes the place of LAMB, and its rate stays. The paper's networks have batch norm and a width that doubles with
    every block; its evaluation is by Adam.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="frepo",
    about=__doc__,
    match="kernel",
    defaults={
        "steps": 100000,
        "checkpoint_every": 100,
        "lr": {"images": 0.003, "labels": 0.003, "lr": 0.0, "optimizer": "adam"},
        "kernel": {"batch_real": 1024},
    },
)
