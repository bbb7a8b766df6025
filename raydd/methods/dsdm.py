"""Diversified semantic distribution matching: means and covariances of features, and their own history.

Reference:
    Li et al., 2024 (DSDM), with the values of its official code.

Differs:
    Its networks are trained for 20 epochs; which of their epochs serve is not stated, and here all do.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="dsdm",
    about=__doc__,
    match="statistics",
    defaults={
        "steps": 10000,
        "checkpoint_every": 200,
        "space": "pixels",
        "formation": {"factor": 2},
        "lr": {"images": 0.1, "lr": 0.0},
        "experts": {"optimizer": "momentum", "weight_decay": 5e-4, "epochs": 20},
        "statistic": {"networks": "experts", "distance": "covariances", "each_class": True, "history": 0.2},
    },
)
