"""Methods that match trajectories.

A method is a function from a `Setup` to a `Recipe`, and one row of `METHODS`. What it sets without being asked is
its row of `DEFAULTS`.

Differs, in all of them: the papers train experts, and choose images, from all training images; here 10 % are held out
for validation unless ``data.validation`` says otherwise (0 is the papers' split).
"""

from collections.abc import Callable

from raydd.config.parsing import Tree
from raydd.distillation.recipe import Recipe, Setup
from raydd.distillation.trajectory_recipe import matching


def mtt(setup: Setup) -> Recipe:
    """Dataset Distillation by Matching Training Trajectories.

    Students start where an expert stood at a random epoch of the window, take S steps of SGD on the
    synthetic images, and shall arrive where the expert was M epochs later. Images and the students'
    step size are learned.

    Reference:
        Cazenavette et al., arXiv 2203.11932, Algorithm 1.

    Differs:
        The gradient is exact but found by an adjoint sweep (``backprop: full`` is the original); the step
        size is clamped to at least a hundredth of its start, where the official code lets it turn
        negative; official start epochs leave the window's upper end out.
    """
    return matching(setup)


def ftd(setup: Setup) -> Recipe:
    """Flat Trajectory Distillation: MTT on experts that seek flat minima (GSAM); the images are averaged.

    Reference:
        Du et al., arXiv 2211.11004, section 3 and Eq. 10.

    Differs:
        The running mean of the images is scored on fresh networks; the official score comes from a
        network that was trained on the raw images before. The official code has settings for networks with
        BatchNorm; no preset here has them. Segments match parameters alone, under each batch's own statistics.
    """
    return matching(setup)


def tesla(setup: Setup) -> Recipe:
    """TESLA: MTT with the graph of one student step, and soft labels from the expert that is matched.

    The set is scored with the labels that all experts together give its images after their last epoch: the
    paper leaves open which expert labels the finished set.

    Reference:
        Cui et al., arXiv 2211.10586, sections 3.2 (constant memory) and 3.4 (soft labels).

    Differs:
        The labels' own dependence on the images counts in the gradient. The constant-memory gradient of the
        paper holds every student step's weights constant, as ``backprop: truncated`` does; the official code
        halves it besides. ``backprop: adjoint`` has the exact
        gradient in the same memory.
    """
    return matching(setup)


def datm(setup: Setup) -> Recipe:
    """Difficulty-Aligned Trajectory Matching: start epochs from T- to a T that grows, and learned soft labels.

    Images start as ones that an expert classifies correctly, labels as its logits, learned beside the images.

    Reference:
        Guo et al., arXiv 2310.05773, Algorithm 1; ``window.auto``: appendix A.6.

    Differs:
        The official code averages the logits of all experts that are right
        (``initial: correctly_classified_mean``), leaves the window's upper end out, and steps only where the
        loss is at most 1 (``gate``), which the paper does not tell of. It also has settings for networks with
        BatchNorm, which no preset here has: segments match parameters alone, under each batch's own statistics,
        and an expert that is asked about images is asked in evaluation mode. That code evaluates with batches of
        128, protocol ``datm``; unasked, sets are evaluated with 256. Of the networks in the paper's appendix A.8 the
        MLP has one hidden layer of 128 units, where ``MLP`` has two; on Tiny ImageNet its ResNet, LeNet and AlexNet
        begin with a stride of 2, and its VGG has another one in the last max pooling. Here the strides are those of
        32 x 32 images, and the larger map is averaged at the end.
    """
    return matching(setup)


def dpd(setup: Setup) -> Recipe:
    """Difference-Driven Pruning Distillation: DATM that leaves out the parameters that differ most.

    Reference:
        DPD, section 3, Eq. 3-9 and Algorithm 1.

    Differs:
        No official code is public. Window and labels are DATM's, as section 4.1 says.
    """
    return matching(setup)


def ast(setup: Setup) -> Recipe:
    """Alignment with Smooth and high-quality expert Trajectories.

    MTT on smooth experts, from representative images, with a balanced inner loss, matches inside the segment,
    and perturbed starting weights. Each part goes with a setting: ``initial``, ``balance``,
    ``intermediate``, ``perturbation``, ``experts.optimizer``.

    Reference:
        Shen et al., arXiv 2310.10541, Algorithms 1 and 2, Eq. 19-23.

    Differs:
        Students use plain SGD as in Algorithm 2, where the official code gives them momentum 0.9; the official
        logarithm of Eq. 20 is to base 5, and its perturbation scales whole tensors with rho 1. The paper evaluates
        with the learning rate halved at 500 epochs, protocol ``ast``; unasked, sets are evaluated by ``mtt``, which
        divides it by ten there.
    """
    return matching(setup)


def mct(setup: Setup) -> Recipe:
    """Matching Convexified Trajectories: experts walk straight from their start to their end.

    The lines are made of any buffer when it is read, or were when it was written (``experts.kept``).

    Reference:
        Zhong et al., arXiv 2406.19827, Eq. 7-10.

    Differs:
        The gradient is exact; the official code has TESLA's, halved.
    """
    return matching(setup)


_DATM: Tree = {"initial": "correctly_classified", "lr": {"labels": 5.0}, "experts": {"optimizer": "gsam"}}

METHODS: dict[str, Callable[[Setup], Recipe]] = {
    "mtt": mtt,
    "ftd": ftd,
    "tesla": tesla,
    "datm": datm,
    "dpd": dpd,
    "ast": ast,
    "mct": mct,
}

DEFAULTS: dict[str, Tree] = {
    "ftd": {"ema": 0.9995, "experts": {"optimizer": "gsam"}},
    "tesla": {"backprop": "truncated", "labels": "expert"},
    "datm": _DATM,
    "dpd": _DATM | {"pruning": {"rate": 0.1}},
    "ast": {
        "initial": "representative",
        "intermediate": "equal",
        "balance": 8.0,
        "perturbation": 0.1,
        "experts": {"optimizer": "smooth"},
    },
    "mct": {"convexify": True, "window": {"continuous": True}},
}
