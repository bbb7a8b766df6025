"""Kernel inducing points: ridge regression with a neural tangent kernel predicts real labels.

    L = 1/2 mean |K_ts (K_ss + lambda I)^-1 y_s - y_t|^2.

Reference:
    Nguyen et al., arXiv 2011.00050 (KIP), whose kernel this is: that of a fully connected ReLU network of infinite
    width, exact, in float64.

Differs:
    The accuracies that tables compare with are of arXiv 2107.13034, whose kernel is of a convolutional network of
    infinite width, which took thousands of GPU hours. Labels are one-hot; ``lr.labels`` learns them.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="kip",
    about=__doc__,
    match="kernel",
    defaults={
        "checkpoint_every": 100,
        "lr": {"images": 0.04, "lr": 0.0, "optimizer": "adam"},
        "kernel": {"of": "tangent", "batch_real": 5000},
    },
)
