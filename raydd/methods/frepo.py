"""Neural feature regression with pooling: ridge regression on a network's features predicts real labels.

    L = 1/2 mean |K_ts (K_ss + lambda I)^-1 y_s - y_t|^2, K = f f^T,

where the features f are those of networks in a pool that are trained on the synthetic set along the way.

Reference:
    Zhou et al., arXiv 2206.00719 (FRePo), Algorithm 1.

Differs:
    Labels are one-hot and not learned, so that the paper's margin loss of labels is left out; Adam takes the place of
    LAMB, and its rate stays. The paper's networks have batch norm and a width that doubles with every block.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="frepo",
    about=__doc__,
    match="kernel",
    defaults={
        "steps": 100000,
        "checkpoint_every": 100,
        "lr": {"images": 0.003, "lr": 0.0, "optimizer": "adam"},
        "kernel": {"batch_real": 1024},
    },
)
