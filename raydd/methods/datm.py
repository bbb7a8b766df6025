"""Difficulty-Aligned Trajectory Matching: start epochs that grow, and learned soft labels.

MTT's loss, with start epochs from T- to a T that grows to T+. Images start as ones that an expert classifies correctly,
labels as its logits, which are learned beside the images.

Reference:
    Guo et al., arXiv 2310.05773, Algorithm 1; ``window.auto``: appendix A.6; the ablation is of Table 2 (b, c).

Differs:
    The official code averages the logits of all experts that are right (``initial: correctly_classified_mean``), leaves
    the window's upper end out, and steps only where the loss is at most 1 (``gate``), which the paper does not say. It
    has settings for networks with BatchNorm; no preset here has them: segments match parameters alone, under each
    batch's own statistics, and experts are asked about images in evaluation mode. That code evaluates with batches of
    128 (protocol ``datm``); the default here is 256. Of the networks in appendix A.8 the MLP has one hidden layer of
    128 units, where ``MLP`` has two; on Tiny ImageNet its ResNet, LeNet and AlexNet begin with a stride of 2, and its
    VGG has another one in the last max pooling. Here the strides are those of 32 x 32 images, and the larger map is
    averaged at the end.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="datm",
    about=__doc__,
    defaults={"initial": "correctly_classified", "lr": {"labels": 5.0}, "experts": {"optimizer": "gsam"}},
    ablation={
        "early epochs, hard labels": {"initial": "real", "lr": {"labels": 0.0}, "window": {"low": 0, "current": None}},
        "+ aligned difficulty": {"initial": "real", "lr": {"labels": 0.0}, "window": {"current": None}},
        "+ soft labels": {"lr": {"labels": 0.0}, "window": {"current": None}},
        "+ learned labels": {"window": {"current": None}},
        "+ sequential generation": {},
    },
)
