"""Realistic, diverse and efficient distillation: mosaics of the crops that an expert classifies best, with its labels.

Of each class up to 300 real images give the best of five random crops each; the best crops are put together, 2 x 2 in
an image of 64 pixels or more, and the expert's logits on it are its label. Nothing is learned.

Reference:
    Sun et al., arXiv 2312.03526 (RDED).

Differs:
    The paper asks its teacher about every crop of an image again while networks are trained on it; here an image keeps
    one label, as `raydd relabel` gives. An image below 64 pixels is one crop, as in the paper's own small settings.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="rded",
    about=__doc__,
    match="nothing",
    defaults={"steps": 0, "initial": "rded", "experts": {"optimizer": "momentum", "num_experts": 1}},
)
