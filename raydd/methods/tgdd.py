"""Trajectory Guided Dataset Distillation: DM through snapshots of experts, judged by later ones.

A snapshot of any epoch compares mean features (Eq. 4); one of the ``statistic.region`` snapshots from it on classifies
the synthetic images (Eq. 5, weight ``statistic.alpha``). An image is a mosaic of ``formation.factor``^2 smaller ones.

Reference:
    Ran et al., arXiv 2512.02469, Algorithm 1, Eq. 4-6; the learning rate of images: implementation details; the
    ablation is Table 4.

Differs:
    Algorithm 1 prints the start inside its loop; it is drawn once. As in the official code, every class takes an
    optimiser step of its own, and at most 200 decoded images a class are used; that code also trains its experts with
    CutMix, which the paper does not mention. The paper's text lists six operations of augmentation for matching (color,
    crop, cutout, flip, scale, rotate); as in its code, color, crop and cutout are what both sides share. That code
    clamps pixels to [0, 1] once an outer step; here a clamp follows each class's step. It reports the best epoch on the
    test images; protocol ``tgdd`` has the last.
"""

from raydd.config.parsing import Tree
from raydd.data.named_sets import SUBSETS
from raydd.methods.method import Method

SHARED: Tree = {
    "steps": 10000,
    "checkpoint_every": 200,
    "space": "pixels",
    "formation": {"factor": 2},
    "lr": {"lr": 0.0},
    "experts": {"optimizer": "momentum", "weight_decay": 5e-4, "epochs": 60, "num_experts": 5},
}
STATISTIC: Tree = {
    "each_class": True,
    "batch_real": 128,
    "batch_synthetic": 200,
    "augment": "dsa_idc",
    "strategy": "color_crop_cutout",
}
IMAGE_RATES = {"": 0.01, **dict.fromkeys(SUBSETS, 0.1)}
METHOD = Method(
    name="tgdd",
    about=__doc__,
    match="statistics",
    defaults=SHARED | {"statistic": STATISTIC | {"networks": "experts", "alpha": 2.5}},
    image_rates=IMAGE_RATES,
    ablation={
        "DM": {"formation": {"factor": 1}, "statistic": {"networks": "random", "alpha": 0.0}},
        "+ multi-formation": {"statistic": {"networks": "random", "alpha": 0.0}},
        "+ stage-wise matching": {"statistic": {"alpha": 0.0}},
        "+ stage-wise constraint": {},
    },
)
