"""Efficient synthetic-data parameterisation: gradients of convolutions match, through networks trained on real images.

An image is a mosaic of ``formation.factor``^2 smaller ones.

Reference:
    Kim et al., arXiv 2205.14959 (IDC), with the values of its official code.

Differs:
    ``steps`` counts updates of the images: 2,000 networks with 100 each. After each, a network takes 16 steps of 128
    real images, which are the 2,000 images of the code.
"""

from raydd.methods.method import Method
from raydd.methods.tgdd import STATISTIC

METHOD = Method(
    name="idc",
    about=__doc__,
    match="statistics",
    defaults={
        "steps": 200000,
        "checkpoint_every": 100,
        "space": "pixels",
        "formation": {"factor": 2},
        "lr": {"images": 0.005, "lr": 0.0},
        "statistic": STATISTIC
        | {
            "networks": "real",
            "of": "gradient",
            "distance": "squared",
            "refresh": 100,
            "queue_steps": 16,
            "batch_size": 128,
            "batch_real": 64,
        },
    },
)
