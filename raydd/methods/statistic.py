"""Methods that match statistics, class by class.

A method is a function from a `Setup` to a `Recipe`, and one row of `METHODS`. What it sets without being asked is
its row of `DEFAULTS`.

Differs, in all of them: the papers train experts, and choose images, from all training images; here 10 % are held out
for validation unless ``data.validation`` says otherwise (0 is the papers' split).
"""

from collections.abc import Callable

from raydd.config.parsing import Tree
from raydd.data.imagenet import SUBSETS
from raydd.distillation.recipe import Recipe, Setup
from raydd.distillation.statistic_recipe import statistics


def dc(setup: Setup) -> Recipe:
    """Dataset Condensation with gradient matching.

    Networks start at random and are trained on the synthetic set; along the way its gradient shall point where
    that of real images points, class by class and layer by layer.

    Reference:
        Zhao et al., arXiv 2006.05929, Algorithm 1 and Eq. 10.

    Differs:
        ``steps`` counts updates of the images, K x T of the paper; ``statistic.refresh`` is T.
    """
    return statistics(setup)


def dsa(setup: Setup) -> Recipe:
    """Dataset condensation with Differentiable Siamese Augmentation: DC under one augmentation for both sides.

    Reference:
        Zhao & Bilen, arXiv 2102.08259, Eq. 6 and Algorithm 1.
    """
    return statistics(setup)


def dm(setup: Setup) -> Recipe:
    """Distribution Matching: the mean features of a class, through a fresh random network every step.

    Reference:
        Zhao & Bilen, arXiv 2110.04181, Eq. 5 and Algorithm 1.
    """
    return statistics(setup)


def tgdd(setup: Setup) -> Recipe:
    """Trajectory Guided Dataset Distillation: DM through snapshots of experts, and an expert's judgement.

    A snapshot of any epoch compares mean features (Eq. 4); one of the ``statistic.region`` snapshots from it on
    classifies the synthetic images (Eq. 5). An image is a mosaic of ``formation.factor``^2 smaller ones.

    Reference:
        Ran et al., Algorithm 1, Eq. 4-6.

    Differs:
        Algorithm 1 prints the start inside its loop; it is drawn once. As in the official code, every class takes
        an optimiser step of its own, and at most 200 decoded images a class are looked at; that code also trains
        its experts with CutMix, which the paper does not tell of. The paper's text lists six operations of
        augmentation for matching (color, crop, cutout, flip, scale, rotate); as in its code, color, crop and cutout
        are what both sides share. That code clamps pixels to [0, 1] once an outer step; here each class's step is
        followed by it. It reports the best epoch on the test images; protocol ``tgdd`` has the last.
    """
    return statistics(setup)


def dance(setup: Setup) -> Recipe:
    """Dual-view distribution alignment: DM through points between an expert's start and its end, which judges.

    Reference:
        Zhang et al., arXiv 2406.01063, sections 3.2 and 3.3.

    Differs:
        Both terms are in one optimiser step a class; the official code steps on the cross-entropy in a pass of its
        own, with views drawn anew. Its experts are trained with CutMix besides.
    """
    return statistics(setup)


def idm(setup: Setup) -> Recipe:
    """Improved Distribution Matching: DM through networks of a queue that are trained on real images for a while.

    Synthetic images are classified by the same network, with a weight that grows with its accuracy.

    Reference:
        Zhao et al., arXiv 2307.09742, sections 4.1-4.3.

    Differs:
        The official code multiplies its weight with an accuracy in per cent, so that 0.5 there is 50 here.
    """
    return statistics(setup)


def m3d(setup: Setup) -> Recipe:
    """DM under a Gaussian kernel: the maximum mean discrepancy of features, not of their means alone.

    Reference:
        Zhang et al., arXiv 2312.15927, Eq. 6 and 7.

    Differs:
        The paper's bandwidth, step sizes and the time that a random network is kept are not public: the bandwidths
        are those of later public code under its name, a network is looked through once, and no preset of its
        tables is shipped.
    """
    return statistics(setup)


_DC: Tree = {
    "match": "statistics",
    "steps": 10000,
    "checkpoint_every": 200,
    "lr": {"images": 0.1, "lr": 0.0},
    "statistic": {"networks": "trained", "of": "gradient", "distance": "cosine", "refresh": 10, "epochs": 50},
}

_STAGES: Tree = {
    "each_class": True,
    "batch_real": 128,
    "batch_synthetic": 200,
    "augment": "dsa_idc",
    "strategy": "color_crop_cutout",
}
_TGDD: Tree = {
    "match": "statistics",
    "steps": 10000,
    "checkpoint_every": 200,
    "space": "pixels",
    "formation": {"factor": 2},
    "lr": {"lr": 0.0},
    "experts": {"optimizer": "momentum", "weight_decay": 5e-4, "epochs": 60, "num_experts": 5},
}

_SCALED = {"": 0.01, **dict.fromkeys(SUBSETS, 0.1)}

PER_IMAGE: dict[str, dict[str, float]] = {"tgdd": _SCALED, "dance": _SCALED}
"""``lr.images`` per stored image of a class, by method and data set; "" stands for all others.

Of tgdd: arXiv 2512.02469, implementation details. Of dance: the published code of arXiv 2406.01063, on the same data.
"""

METHODS: dict[str, Callable[[Setup], Recipe]] = {
    "dc": dc,
    "dsa": dsa,
    "dm": dm,
    "tgdd": tgdd,
    "dance": dance,
    "idm": idm,
    "m3d": m3d,
}

DEFAULTS: dict[str, Tree] = {
    "dc": _DC | {"initial": "noise", "statistic": _DC["statistic"] | {"augment": "none"}},
    "dsa": _DC,
    "dm": {"match": "statistics", "steps": 20000, "checkpoint_every": 200, "lr": {"images": 1.0, "lr": 0.0}},
    "tgdd": _TGDD | {"statistic": _STAGES | {"networks": "experts", "alpha": 2.5}},
    "dance": _TGDD | {"statistic": _STAGES | {"networks": "mixed", "alpha": 1.0}},
    "idm": {
        "match": "statistics",
        "steps": 20000,
        "checkpoint_every": 500,  # a hundred networks each
        "formation": {"factor": 2},
        "lr": {"images": 0.2, "lr": 0.0},
        "statistic": {"networks": "queue", "each_class": True, "alpha": 50.0, "refresh": 30},
    },
    "m3d": {
        "match": "statistics",
        "steps": 20000,
        "checkpoint_every": 200,
        "formation": {"factor": 2},
        "lr": {"images": 1.0, "lr": 0.0},
        "statistic": {"distance": "gaussian"},
    },
}
